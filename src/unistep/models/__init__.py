"""Weights: files, the package's own, those of others by name, downloads, conversion."""
