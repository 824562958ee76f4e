"""What the papers share: processes as one table, networks as predictors of the clean latent, samplers."""
