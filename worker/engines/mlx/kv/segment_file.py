"""Segments to files and back, in pieces, so that neither the engine's thread is held up nor anything is there twice.

The layout of a file, and its checksums, are those of `file_format`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from worker.cache_files.file_format import DamagedFileError, FileInfo, Shape, Tensor
from worker.engines.mlx.kv.buffers import Buffer, Part, Run, joined
from worker.engines.mlx.kv.cache import Layout, Segment, build_segment
from worker.engines.mlx.kv.classes import STORED_CLASSES, Pair, class_of
from worker.engines.mlx.kv.eight_bits import BITS, Packed, group_of

PIECE_BYTES = 4 << 20
_PACKED_PARTS = ("scales", "offsets")  # beside the numbers
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
_MISFITS = (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, ZeroDivisionError)
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
Described = tuple[str, tuple[int, ...], int]  # dtype by its name in files, shape, bytes


def can_store(segment: Segment) -> bool:
    """A model with states of other classes keeps its checkpoints in memory only."""
    return all(state is None or class_of(state).is_stored for state in segment.states)


class Export:
    """A segment's bytes on their way to a file: host copies, made piece by piece when they are asked for, so that
    neither its buffers are held meanwhile nor all of it is there twice."""

    def __init__(self, segment: Segment, info: FileInfo, *, is_packed: bool = False) -> None:
        """`is_packed`: tokens at 8 bits a number, in arrays whose size mlx takes."""
        self._run = segment.run
        self._is_packed = is_packed
        self._arrays: dict[str, mx.array] = {}
        for index, pair in enumerate(segment.pairs):
            if pair is not None:
                self._arrays[f"{index}.keys"], self._arrays[f"{index}.values"] = pair
        states = json.dumps(self._take_states(segment.states))
        self._names = {} if segment.run is None else _token_names(segment.layout)
        tensors = {name: described(array.dtype, tuple(array.shape)) for name, array in self._arrays.items()}
        for name, (index, side) in self._names.items():
            assert self._run is not None
            first = self._run.parts[0].buffer.tokens(index, side, self._run.start, self._run.start)
            shape = (*first.shape[:2], segment.length, first.shape[3])
            tensors.update(described_tokens(name, first.dtype, shape, is_packed=self._packs(first)))
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

    def _packs(self, tokens: mx.array) -> bool:
        return self._is_packed and bool(group_of(tokens.shape[3])) and mx.issubdtype(tokens.dtype, mx.floating)

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
            first = self._run.parts[0].buffer.tokens(index, side, self._run.start, self._run.start)
            if self._packs(first):
                yield from self._packed(index, side)
                continue
            for head in range(first.shape[1]):
                yield from self._head(index, side, head)

    def _packed(self, index: int, side: int) -> Iterator[bytes]:
        assert self._run is not None
        packed = Packed.of(mx.concatenate(joined(self._run.parts, index, side), axis=2))
        assert packed is not None
        for part in packed.parts:
            yield _host_bytes(part)

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


def _token_names(layout: Layout) -> dict[str, tuple[int, int]]:
    """The tensors of `tokens` leaves by name: which of these leaves, and whether its keys or its values."""
    indices = layout.of_kind("tokens", range(len(layout.kinds)))
    sides = ("keys", "values")
    return {f"{leaf}.{name}": (n, side) for n, leaf in enumerate(indices) for side, name in enumerate(sides)}


def described(dtype: Any, shape: tuple[int, ...]) -> Described:
    """An array as a file's header says it: dtype, shape and bytes."""
    return _NAMES[dtype], shape, math.prod(shape) * int(dtype.size)


def described_tokens(name: str, dtype: Any, shape: tuple[int, ...], *, is_packed: bool) -> dict[str, Described]:
    """Keys or values of so many tokens by the names of their arrays: one, or at 8 bits three."""
    if not is_packed:
        return {name: described(dtype, shape)}
    scales = described(dtype, (*shape[:3], shape[3] // group_of(shape[3])))
    numbers = described(mx.uint32, (*shape[:3], shape[3] * BITS // 32))
    return {name: numbers, **{f"{name}.{part}": scales for part in _PACKED_PARTS}}


def _host_bytes(array: mx.array) -> bytes:
    """A copy made by the host: it holds nothing of the device's afterwards."""
    flat = array if array.ndim else array.reshape(1)
    return np.asarray(memoryview(flat.view(mx.uint8))).tobytes()  # type: ignore[arg-type]  # arrays export their buffer


class Import:
    """A segment on its way from a file into memory. Its tensors are taken in one by one. Tokens go where they belong in
    `target`, a lent buffer; without one, into a buffer of their own."""

    def __init__(self, info: FileInfo, states: str, layout: Layout, target: Buffer | None) -> None:
        self._info = info
        self._states = states
        self._layout = layout
        self._names = _token_names(layout)
        self._missing = set(self._names)
        self._arrays: dict[str, mx.array] = {}
        self._packed: dict[str, list[mx.array]] = {}
        self._is_own = target is None
        length = info.end - info.start
        self._buffer = target or Buffer.blank(len(self._names) // 2, start=info.start, room=length)

    def copying(self, tensor: Tensor) -> Iterator[int]:
        """Take a tensor in; the bytes of each piece that was copied. Raises `DamagedFileError`."""
        try:
            if (name := self._packed_name(tensor)) is not None:
                yield from self._take_packed(name, tensor)
                return
            if tensor.name not in self._names:
                self._arrays[tensor.name] = _array(tensor.data, tensor.dtype, tensor.shape)
                mx.eval(self._arrays[tensor.name])
                yield len(tensor.data)
                return
            yield from self._put(*self._names[tensor.name], tensor)
            self._missing.discard(tensor.name)
        except _MISFITS as error:
            raise _misfit(error) from error

    def _packed_name(self, tensor: Tensor) -> str | None:
        """Of the keys or values that this is a part of at 8 bits."""
        name, _, part = tensor.name.rpartition(".")
        if part in _PACKED_PARTS and name in self._names:
            return name
        return tensor.name if tensor.name in self._names and tensor.dtype == "U32" else None

    def _take_packed(self, name: str, tensor: Tensor) -> Iterator[int]:
        """Once all three parts are there, put them as the numbers that they stand for."""
        parts = self._packed.setdefault(name, [])
        parts.append(_array(tensor.data, tensor.dtype, tensor.shape))
        mx.eval(parts[-1])
        yield len(tensor.data)
        if len(parts) < 1 + len(_PACKED_PARTS):
            return
        packed = Packed(*self._packed.pop(name))
        self._check_shape(packed.shape)
        heads, length, start = packed.shape[1], packed.shape[2], self._info.start
        rows = max(1, PIECE_BYTES // max(1, packed.shape[3] * parts[-1].itemsize))
        for head in range(heads):
            for at in range(0, length, rows):
                piece = packed[:, head : head + 1, at : at + rows]
                self._buffer.put(*self._names[name], piece, heads=heads, head=head, start=start + at)
                yield piece.nbytes
        self._missing.discard(name)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        batch, _, length, _ = shape
        if batch != 1 or length != self._info.end - self._info.start:
            raise DamagedFileError("it does not hold all of its tokens")

    def _put(self, index: int, side: int, tensor: Tensor) -> Iterator[int]:
        start = self._info.start
        self._check_shape(tensor.shape)
        _, heads, length, dim = tensor.shape
        row_bytes = len(tensor.data) // (heads * length)
        rows = max(1, PIECE_BYTES // max(1, row_bytes))
        for head in range(heads):
            for at in range(0, length, rows):
                count = min(rows, length - at)
                first = (head * length + at) * row_bytes
                data = tensor.data[first : first + count * row_bytes]
                piece = _array(data, tensor.dtype, (1, 1, count, dim))
                self._buffer.put(index, side, piece, heads=heads, head=head, start=start + at)
                yield len(data)

    def segment(self) -> Segment:
        """Once all tensors are taken in. Raises `DamagedFileError` when they do not fit the model's layout."""
        if self._missing:
            raise DamagedFileError(f"{len(self._missing)} of its tensors are missing")
        try:
            states: list[Any] = [None] * len(self._layout.kinds)
            for name, description in json.loads(self._states).items():
                states[int(name)] = _state(f"{name}.state.", description, self._arrays)
            pairs = tuple(self._pair(index) for index in range(len(states)))
            return build_segment(self._layout, self._info.end - self._info.start, self._run(), pairs, tuple(states))
        except _MISFITS as error:
            raise _misfit(error) from error

    def _pair(self, index: int) -> Pair | None:
        keys = self._arrays.get(f"{index}.keys")
        return None if keys is None else (keys, self._arrays[f"{index}.values"])

    def _run(self) -> Run | None:
        if not self._layout.has_tokens:
            return None
        if self._is_own:
            self._buffer.settle()
        return Run([Part(self._buffer, self._info.start, self._info.end)])


def _misfit(error: Exception) -> DamagedFileError:
    return DamagedFileError(f"content does not fit the model: {type(error).__name__}: {error}")


def _array(data: memoryview, dtype: str, shape: tuple[int, ...]) -> mx.array:
    flat: mx.array = mx.array(np.frombuffer(data, np.uint8)) if data else mx.zeros(0, mx.uint8)
    return flat.view(_DTYPES[dtype]).reshape(shape)


def _state(prefix: str, description: Mapping[str, Any], arrays: Mapping[str, mx.array]) -> Any:
    leaves = [(name.removeprefix(prefix), array) for name, array in arrays.items() if name.startswith(prefix)]
    leaves += list(description["scalars"].items())
    state = tree_unflatten(sorted(leaves, key=lambda leaf: [int(part) for part in leaf[0].split(".")]))
    return STORED_CLASSES[description["class"]].from_state(state)
