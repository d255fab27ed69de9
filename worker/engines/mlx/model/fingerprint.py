"""What tells a model from all others, without reading all of it.

`identity` is for routing: the same files wherever they lie, and whoever runs them. `fingerprint` is for caches: what is
kept of a prompt depends on the weights and on how it is kept, not on the template.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

# Raised when caches that an older release wrote cannot be used any more: when mlx-lm's caches hold something else, or
# when what its models compute changes by more than rounding. Until then an update leaves all caches warm.
CACHE_FORMAT = 1
_LENGTH = struct.Struct("<Q")
_SAMPLE_BYTES = 1024
_TEXTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class Prints:
    """Of one model's files."""

    fingerprint: bytes
    identity: str


def read_prints(folder: Path) -> Prints:
    """Config and weights count for both, tokenizer and template for the identity alone."""
    weights = _weights(folder)
    texts = hashlib.blake2b(weights, digest_size=20)
    for name in _TEXTS:
        path = folder / name
        data = path.read_bytes() if path.is_file() else b""
        texts.update(f"{name}:{len(data)}:".encode() + data)
    kept = hashlib.blake2b(f"cache format {CACHE_FORMAT}".encode() + weights, digest_size=20)
    return Prints(fingerprint=kept.digest(), identity=texts.hexdigest())


def _weights(folder: Path) -> bytes:
    """Config, headers and a sample from the middle of every tensor count: training, merging or quantising changes a
    tensor nearly everywhere, but perhaps only a few tensors of many."""
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=32)
    for path in sorted(folder.glob("model*.safetensors")):
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            length = _LENGTH.unpack(file.read(_LENGTH.size))[0]
            header = file.read(length)
            digest.update(header)
            data_start = _LENGTH.size + length
            for name, entry in json.loads(header).items():
                if name != "__metadata__":
                    start, end = entry["data_offsets"]
                    at = max(start, (start + end - _SAMPLE_BYTES) // 2)
                    digest.update(os.pread(file.fileno(), min(_SAMPLE_BYTES, end - at), data_start + at))
    return digest.digest()
