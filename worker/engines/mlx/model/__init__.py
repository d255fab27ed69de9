"""A model: loaded, tried and identified."""
