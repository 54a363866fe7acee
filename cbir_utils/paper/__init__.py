"""The report on the paper: notebook 12."""
