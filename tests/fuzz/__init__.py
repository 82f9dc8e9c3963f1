"""Random calls of every operator with every rule; `make fuzz` makes 100,000 of them."""
