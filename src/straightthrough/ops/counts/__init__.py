"""0, 1, 2, ... an element."""
