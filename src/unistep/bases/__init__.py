"""A new base: write its file, add one line here."""

from .compact import CompactBase, CompactConfig

BASES = {"compact": (CompactBase, CompactConfig)}

__all__ = ["BASES", "CompactBase", "CompactConfig"]
