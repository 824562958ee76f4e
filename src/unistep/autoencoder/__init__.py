"""Codecs between pictures and latents: whole, in exact blocks, in fast tiles."""
