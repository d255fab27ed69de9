"""A request between the gateway and its worker: queue, frames, readers, endings."""
