"""The vector-quantized autoencoder."""
