"""What a model says: reasoning, text and calls."""
