"""What `mlx-gateway doctor` looks at, one kind in each module; each finding says what to do about it."""
