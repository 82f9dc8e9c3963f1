"""The masked network."""
