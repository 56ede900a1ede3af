"""The PyTorch half: network, optimizer, batch normalisation, gradient sum, backend."""
