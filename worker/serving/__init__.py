"""A request inside its worker: from the claimed job to the published frame."""
