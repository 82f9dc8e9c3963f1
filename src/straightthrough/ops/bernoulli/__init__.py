"""Zero or one an element."""
