"""A new base: write its file, add one line here."""

from .compact import CompactConfig, CompactDenoiser

BASES = {"compact": (CompactDenoiser, CompactConfig)}

__all__ = ["BASES", "CompactConfig", "CompactDenoiser"]
