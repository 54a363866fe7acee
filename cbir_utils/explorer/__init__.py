"""The explorer: a query, its hits, and why: notebook 05 and the app."""
