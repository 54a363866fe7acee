"""Searching a finished run with any image: notebook 10, the explorer, the command line."""
