"""`mlx-gateway service`: a stack, a gateway or a host that starts by itself and is started again when it dies."""
