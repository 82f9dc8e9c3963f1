"""One of C classes a row."""
