"""Vectors of texts: small encoders, and the hidden states of language models that were trained to embed."""
