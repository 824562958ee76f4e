"""User studies: which of several results people prefer, asked blindly, as in TSD-SR (section 4.3)."""
