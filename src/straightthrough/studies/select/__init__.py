"""The pixels that decide the class."""
