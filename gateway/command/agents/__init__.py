"""Coding agents that `mlx-gateway launch` sets up for a local model, one module each."""
