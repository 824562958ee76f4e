"""Measures of pictures, and of what a network costs."""
