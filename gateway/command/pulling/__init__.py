"""Models from the Hugging Face hub, when a person asks for one; what lies on this machine, and how it goes."""
