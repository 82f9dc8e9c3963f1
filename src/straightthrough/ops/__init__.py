"""The operators: a room a family, every room with the same files."""
