"""Searching millions of images: notebook 11."""
