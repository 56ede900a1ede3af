"""The networks, as data both frameworks build from."""
