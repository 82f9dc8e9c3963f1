"""Quantized networks."""
