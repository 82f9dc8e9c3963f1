"""The categorical VAE."""
