"""`mlx-gateway upgrade`."""
