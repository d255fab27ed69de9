"""The `mlx-gateway` command: what a person types, and what it starts."""
