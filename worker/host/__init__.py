"""One Mac: which models it serves, and the processes that serve them."""
