"""What tells apart who may answer the same request differently: our version, and the model."""

from __future__ import annotations

import functools
from hashlib import blake2b
from importlib.metadata import version


@functools.lru_cache(maxsize=256)
def fingerprint_of(model: str) -> str:
    text = f"{version('mlx-gateway')}\0{model}"
    return f"fp_{blake2b(text.encode(errors='surrogatepass'), digest_size=5).hexdigest()}"
