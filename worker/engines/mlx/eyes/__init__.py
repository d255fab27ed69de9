"""How a model sees: what embeds its images, and where their tokens stand."""
