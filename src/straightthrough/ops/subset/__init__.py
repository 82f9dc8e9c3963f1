"""k of C classes a row."""
