"""What the vendor's APIs have in common."""
