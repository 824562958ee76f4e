"""Photographs, their degradation, and pairs of both."""
