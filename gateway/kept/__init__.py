"""Answers that are kept for their clients: to be had again, and to be gone on from."""
