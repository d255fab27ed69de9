"""Segments as safetensors files: what is written, and how a file proves that it is whole and the right one.

The header's metadata says whose prefix it is (model, tenant's root, key), where it hangs (parent file and depth) and
the CRC-32 of the data and of the rest of the header. The first tensor holds the tokens, so that header and tokens are
read in one go.
Layout of a file: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from worker.engines.mlx.kv.buffers import Buffer, Part, Run
from worker.engines.mlx.kv.cache import Layout, Segment, build_segment
from worker.engines.mlx.kv.classes import STORED_CLASSES, Pair, class_of
from worker.prefix_cache.tokens import count_tokens

FORMAT = "2"
PIECE_BYTES = 4 << 20
_LENGTH_BYTES = 8
_CHECKSUM_BYTES = 32  # of the header's text at most
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


Tensor = tuple[str, tuple[int, ...], memoryview]  # dtype name, shape, bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSegment:
    """A file's content: tensors by name, and the shape of its states as JSON."""

    info: FileInfo
    tensors: Mapping[str, Tensor]
    states: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a file will hold: the tensors' dtype names, shapes and sizes by name, in the order of their bytes, and the
    shape of its states as JSON."""

    info: FileInfo
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]]
    states: str


def can_store(segment: Segment) -> bool:
    """A model with states of other classes keeps its checkpoints in memory only."""
    return all(state is None or class_of(state).is_stored for state in segment.states)


# -- on the engine thread --------------------------------------------------------------------------------------------


class Export:
    """A segment's bytes on their way to a file: host copies, made piece by piece when they are asked for, so that
    neither its buffers are held meanwhile nor all of it is there twice."""

    def __init__(self, segment: Segment, info: FileInfo) -> None:
        self._run = segment.run
        self._arrays: dict[str, mx.array] = {}
        for index, pair in enumerate(segment.pairs):
            if pair is not None:
                self._arrays[f"{index}.keys"], self._arrays[f"{index}.values"] = pair
        states = json.dumps(self._take_states(segment.states))
        self._names = _token_names(segment)
        tensors = {name: _described(array.dtype, array.shape) for name, array in self._arrays.items()}
        for name, (index, side) in self._names.items():
            assert self._run is not None
            first = self._run.parts[0].buffer.tokens(index, side, self._run.start, self._run.start)
            tensors[name] = _described(first.dtype, (*first.shape[:2], segment.length, first.shape[3]))
        self.shape = Shape(info=info, tensors=tensors, states=states)

    def _take_states(self, leaf_states: Sequence[Any]) -> dict[str, Any]:
        states: dict[str, Any] = {}
        for index, state in enumerate(leaf_states):
            if state is not None:
                scalars: dict[str, Any] = {}
                for path, value in tree_flatten(state.state):
                    if isinstance(value, mx.array):
                        self._arrays[f"{index}.state.{path}"] = value
                    else:
                        scalars[path] = value
                states[str(index)] = {"class": type(state).__name__, "scalars": scalars}
        return states

    def pieces(self) -> Iterator[bytes]:
        """In the order of `shape.tensors`, each of at most about `PIECE_BYTES`."""
        piece = bytearray()
        for part in self._parts():
            piece += part
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)

    def _parts(self) -> Iterator[bytes]:
        for array in self._arrays.values():
            yield _host_bytes(array)
        for index, side in self._names.values():
            assert self._run is not None
            for head in range(self._run.parts[0].buffer.tokens(index, side, self._run.start, self._run.start).shape[1]):
                yield from self._head(index, side, head)

    def _head(self, index: int, side: int, head: int) -> Iterator[bytes]:
        """One head's keys or values. The run is asked anew for each piece: it may have moved since."""
        assert self._run is not None
        at = self._run.start
        while at < self._run.end:
            part = self._run.between(at, self._run.end)[0]
            row = part.buffer.tokens(index, side, at, at + 1)
            end = min(part.end, at + max(1, PIECE_BYTES // max(1, row.shape[3] * row.itemsize)))
            yield _host_bytes(part.buffer.tokens(index, side, at, end)[:, head : head + 1])
            at = end


def _token_names(segment: Segment) -> dict[str, tuple[int, int]]:
    """The tensors of `tokens` leaves by name: which of these leaves, and whether its keys or its values."""
    if segment.run is None:
        return {}
    indices = segment.layout.of_kind("tokens", range(len(segment.layout.kinds)))
    sides = ("keys", "values")
    return {f"{leaf}.{name}": (n, side) for n, leaf in enumerate(indices) for side, name in enumerate(sides)}


def _described(dtype: Any, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], int]:
    return _NAMES[dtype], tuple(shape), math.prod(shape) * int(dtype.size)


def _host_bytes(array: mx.array) -> bytes:
    """A copy made by the host: it holds nothing of the device's afterwards."""
    flat = array if array.ndim else array.reshape(1)
    return np.asarray(memoryview(flat.view(mx.uint8))).tobytes()  # type: ignore[arg-type]  # arrays export their buffer


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
        run = None
        if layout.has_tokens:
            buffer = Buffer.of_arrays(layout.of_kind("tokens", pairs), start=raw.info.start)
            run = Run([Part(buffer, raw.info.start, raw.info.end)])
            if buffer.room != raw.info.end - raw.info.start:
                raise DamagedFileError("it does not hold all of its tokens")
        windows = tuple(None if kind == "tokens" else pair for kind, pair in zip(layout.kinds, pairs, strict=True))
        return build_segment(layout, raw.info.end - raw.info.start, run, windows, tuple(states))
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


class FileWriter:
    """Writes one file under its final name's sibling, piece by piece, then renames it."""

    def __init__(self, shape: Shape, path: Path) -> None:
        self._shape = shape
        self._path = path
        self._temporary = path.with_suffix(f".{os.getpid()}.tmp")  # another worker may be writing the same
        self._header: dict[str, Any] = {}
        self._size = 0
        self._file: Any = None

    def begin(self) -> None:
        """The header is written last, when the checksum is known; its room is left free."""
        info = self._shape.info
        tensors = {_TOKENS: ("U32", (count_tokens(info.tokens),), len(info.tokens)), **self._shape.tensors}
        for name, (dtype, shape, nbytes) in tensors.items():
            offsets = [self._size, self._size + nbytes]
            self._header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
            self._size += nbytes
        self._header["__metadata__"] = {
            "format": FORMAT,
            "key": info.key.hex(),
            "parent": info.parent.hex(),
            "seed": info.seed.hex(),
            "start": str(info.start),
            "is_checkpoint": str(int(info.is_checkpoint)),
            "states": self._shape.states,
        }
        self._room = -(-(len(json.dumps(self._header)) + _CHECKSUM_BYTES) // _LENGTH_BYTES) * _LENGTH_BYTES
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # people remove it to have their space back
        self._file = open(self._temporary, "wb", opener=_for_the_owner_alone)  # noqa: SIM115  # closed by `end`
        self._file.seek(_LENGTH_BYTES + self._room)
        self._crc = 0
        self.add(info.tokens)

    def add(self, piece: bytes) -> None:
        self._crc = zlib.crc32(piece, self._crc)
        self._file.write(piece)

    def end(self) -> int:
        """The file's size, now that it is whole."""
        self._header["__metadata__"]["crc32"] = _checksum(self._header, self._crc)
        encoded = json.dumps(self._header).encode()
        assert len(encoded) <= self._room
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + encoded.ljust(self._room))
        self._file.close()
        self._temporary.replace(self._path)
        return _LENGTH_BYTES + self._room + self._size

    def give_up(self) -> None:
        """A full disk must not keep the half of it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._temporary.unlink(missing_ok=True)


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
