"""The prompt: what is computed next and in which chunks."""
