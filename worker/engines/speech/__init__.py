"""The engine that says texts aloud."""
