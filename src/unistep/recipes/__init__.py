"""Recipes: a whole training run as one value, and every number of the papers with its source."""
