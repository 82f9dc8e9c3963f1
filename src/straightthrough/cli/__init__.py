"""The command line, one small file a command; `python -m straightthrough` works too."""
