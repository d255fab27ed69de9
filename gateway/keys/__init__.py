"""Several people with keys of their own: who they are, what they may, and what they used."""
