"""Models behind other servers: what is asked of them is canonical, what they answer becomes our events."""
