"""The OpenAI Completions dialect: raw prompts, continued as they are."""
