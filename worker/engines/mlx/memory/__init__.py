"""How much memory there is, and who may use it."""
