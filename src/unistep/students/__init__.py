"""A one-step student of a latent base over whole pictures of any size, in the memory that is free."""
