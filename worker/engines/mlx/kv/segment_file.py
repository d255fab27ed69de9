"""Segments as safetensors files: what is written, and how a file proves that it is whole and the right one.

The header's metadata says whose prefix it is (model, tenant's root, key), where it hangs (parent file and depth) and
the CRC-32 of the data and of the rest of the header. The first tensor holds the tokens, so that header and tokens are
read in one go.
Layout of a file: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from worker.engines.mlx.kv.cache import Layout, Segment, build_segment
from worker.engines.mlx.kv.classes import STORED_CLASSES, Pair, class_of
from worker.prefix_cache.tokens import count_tokens

FORMAT = "2"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 64 << 20
_TOKENS = "tokens"
_DTYPES = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "I8": mx.int8,
    "U16": mx.uint16,
    "I16": mx.int16,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "U32": mx.uint32,
    "I32": mx.int32,
    "F32": mx.float32,
    "I64": mx.int64,
    "U64": mx.uint64,
}
_MISFITS = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error)  # of content with another form
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class DamagedFileError(Exception):
    """The file is not what it should be, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What a file holds: tokens `start..end` of a prefix, continuing file `parent` (empty at the root) at `start`."""

    key: bytes
    parent: bytes
    seed: bytes
    start: int
    tokens: bytes
    is_checkpoint: bool
    nbytes: int = 0

    @property
    def end(self) -> int:
        return self.start + count_tokens(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSegment:
    """A file's content: tensors as (dtype name, shape, bytes) by name, and the shape of its states as JSON."""

    info: FileInfo
    tensors: Mapping[str, tuple[str, tuple[int, ...], memoryview]]
    states: str


def can_store(segment: Segment) -> bool:
    """A model with states of other classes keeps its checkpoints in memory only."""
    return all(state is None or class_of(state).is_stored for state in segment.states)


# -- on the engine thread --------------------------------------------------------------------------------------------


def export_segment(segment: Segment, info: FileInfo) -> RawSegment:
    """The segment's bytes, shared with its arrays and safe to read on any thread while the result is held."""
    arrays: dict[str, mx.array] = {}
    for index, pair in enumerate(segment.pairs):
        if pair is not None:
            arrays[f"{index}.keys"], arrays[f"{index}.values"] = pair
    states: dict[str, Any] = {}
    for index, state in enumerate(segment.states):
        if state is not None:
            scalars: dict[str, Any] = {}
            for path, value in tree_flatten(state.state):
                if isinstance(value, mx.array):
                    arrays[f"{index}.state.{path}"] = value
                else:
                    scalars[path] = value
            states[str(index)] = {"class": type(state).__name__, "scalars": scalars}
    views = {name: array.reshape(-1).view(mx.uint8) for name, array in arrays.items()}
    mx.eval(list(views.values()))
    tensors = {
        name: (_NAMES[array.dtype], tuple(array.shape), memoryview(views[name]))  # type: ignore[arg-type]  # arrays export their buffer
        for name, array in arrays.items()
    }
    return RawSegment(info=info, tensors=tensors, states=json.dumps(states))


def import_segment(raw: RawSegment, layout: Layout) -> Segment:
    """The segment again. Raises `DamagedFileError` when it does not fit the model's layout."""
    try:
        arrays = {name: _array(*tensor) for name, tensor in raw.tensors.items()}
        pairs: list[Pair | None] = []
        for index in range(len(layout.kinds)):
            keys = arrays.get(f"{index}.keys")
            pairs.append(None if keys is None else (keys, arrays[f"{index}.values"]))
        states: list[Any] = [None] * len(layout.kinds)
        for name, description in json.loads(raw.states).items():
            states[int(name)] = _state(f"{name}.state.", description, arrays)
        mx.eval(list(arrays.values()))
        return build_segment(layout, raw.info.end - raw.info.start, tuple(pairs), tuple(states))
    except (*_MISFITS, IndexError) as error:
        raise DamagedFileError(f"content does not fit the model: {type(error).__name__}: {error}") from error


def _array(dtype: str, shape: tuple[int, ...], data: memoryview) -> mx.array:
    flat: mx.array = mx.array(np.frombuffer(data, np.uint8))
    return flat.view(_DTYPES[dtype]).reshape(shape)


def _state(prefix: str, description: Mapping[str, Any], arrays: Mapping[str, mx.array]) -> Any:
    leaves = [(name.removeprefix(prefix), array) for name, array in arrays.items() if name.startswith(prefix)]
    leaves += list(description["scalars"].items())
    state = tree_unflatten(sorted(leaves, key=lambda leaf: [int(part) for part in leaf[0].split(".")]))
    return STORED_CLASSES[description["class"]].from_state(state)


# -- on any thread ---------------------------------------------------------------------------------------------------


def write_file(raw: RawSegment, path: Path) -> int:
    """Write the file in one go under its final name's sibling, then rename it. Its size in bytes."""
    tensors = {_TOKENS: ("U32", (count_tokens(raw.info.tokens),), memoryview(raw.info.tokens)), **raw.tensors}
    header: dict[str, Any] = {}
    offset = crc = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
        crc = zlib.crc32(data, crc)
    header["__metadata__"] = {
        "format": FORMAT,
        "key": raw.info.key.hex(),
        "parent": raw.info.parent.hex(),
        "seed": raw.info.seed.hex(),
        "start": str(raw.info.start),
        "is_checkpoint": str(int(raw.info.is_checkpoint)),
        "states": raw.states,
    }
    header["__metadata__"]["crc32"] = _checksum(header, crc)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _LENGTH_BYTES)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # another worker may be writing the same
    try:
        with open(temporary, "wb", opener=_for_the_owner_alone) as file:
            file.write(struct.pack("<Q", len(encoded)))
            file.write(encoded)
            for _, _, data in tensors.values():
                file.write(data)
        temporary.replace(path)
    except OSError:  # a full disk must not keep the half of it
        temporary.unlink(missing_ok=True)
        raise
    return _LENGTH_BYTES + len(encoded) + offset


def _checksum(header: dict[str, Any], data_crc: int) -> str:
    """Of the data, whose CRC-32 is given, and of a header without its own checksum."""
    return str(zlib.crc32(json.dumps(header).encode(), data_crc))


def _for_the_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_info(path: Path) -> FileInfo:
    """What the file says it holds; only its size and its tokens are checked. Raises `DamagedFileError`."""
    try:
        with path.open("rb") as file:
            header, data_start = _read_header(file)
            size = path.stat().st_size
            end = max(int(entry["data_offsets"][1]) for name, entry in _entries(header))
            if size != data_start + end:
                raise DamagedFileError(f"{size} bytes instead of {data_start + end}")
            first, last = header[_TOKENS]["data_offsets"]
            if first != 0:
                raise DamagedFileError("the tokens do not come first")
            return _info(header, file.read(last), size)
    except (OSError, *_MISFITS) as error:
        raise DamagedFileError(f"{type(error).__name__}: {error}") from error


def read_file(path: Path) -> RawSegment:
    """The whole file, its checksum compared. Raises `DamagedFileError`."""
    try:
        content = path.read_bytes()
        length = struct.unpack_from("<Q", content)[0]
        header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
        data = memoryview(content)[_LENGTH_BYTES + length :]
        expected = header["__metadata__"].pop("crc32")
        if _checksum(header, zlib.crc32(data)) != expected:
            raise DamagedFileError("the checksum differs")
        tensors = {
            name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
            for name, entry in _entries(header)
        }
        tokens = tensors.pop(_TOKENS)[2]
        info = _info(header, bytes(tokens), len(content))
        return RawSegment(info=info, tensors=tensors, states=header["__metadata__"]["states"])
    except (OSError, *_MISFITS) as error:
        raise DamagedFileError(f"{type(error).__name__}: {error}") from error


def _read_header(file: Any) -> tuple[dict[str, Any], int]:
    length = struct.unpack("<Q", file.read(_LENGTH_BYTES))[0]
    if length > _MAX_HEADER_BYTES:
        raise DamagedFileError(f"a header of {length} bytes")
    return json.loads(file.read(length)), _LENGTH_BYTES + length


def _entries(header: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, entry) for name, entry in header.items() if name != "__metadata__")


def _info(header: dict[str, Any], tokens: bytes, nbytes: int) -> FileInfo:
    metadata = header["__metadata__"]
    if metadata["format"] != FORMAT:
        raise DamagedFileError(f"format {metadata['format']}, this is {FORMAT}")
    return FileInfo(
        key=bytes.fromhex(metadata["key"]),
        parent=bytes.fromhex(metadata["parent"]),
        seed=bytes.fromhex(metadata["seed"]),
        start=int(metadata["start"]),
        tokens=tokens,
        is_checkpoint=metadata["is_checkpoint"] == "1",
        nbytes=nbytes,
    )
