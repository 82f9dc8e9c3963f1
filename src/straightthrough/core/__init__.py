"""The engine: it knows no operator."""
