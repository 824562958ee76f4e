"""Losses that methods share: score distillation's push, perceptual distances, feature networks."""
