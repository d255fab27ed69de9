"""What tells a model's weights from all others', without reading all of them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import mlx_lm

_LENGTH = struct.Struct("<Q")
_SAMPLE_BYTES = 1024


def fingerprint(folder: Path) -> bytes:
    """The same for the same weights, wherever they lie, and another for each version of mlx-lm.

    Config, headers and a sample from the middle of every tensor count: training, merging or quantising changes a
    tensor nearly everywhere, but perhaps only a few tensors of many.
    """
    digest = hashlib.blake2b(mlx_lm.__version__.encode(), digest_size=20)
    digest.update((folder / "config.json").read_bytes())
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
