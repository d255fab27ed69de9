"""What became of each request, for `mlx-gateway trace`: built from what a gateway knows, kept in a bounded file."""
