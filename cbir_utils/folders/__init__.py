"""Folders of images: notebook 10."""
