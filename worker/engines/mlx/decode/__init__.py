"""The next token of every running request: batches, sampling, drafts and demanded forms."""
