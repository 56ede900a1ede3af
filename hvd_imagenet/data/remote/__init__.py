"""Data sets at a URL: fetched in spite of the network, and kept on each host in a cache of limited size."""
