"""Reads a model's weights in pieces, so that progress shows and the host's other workers have the device in between.

The disk is waited for before a turn at the device begins, not in it: a thread reads the bytes of a layer into the
system's file cache while the layer before is being loaded, and mlx finds them there. Weights are renamed and combined
as a model's code wants it, so that a file's tensors and a model's arrays have only the layer's number in common. What
was read for another layer than it turns out to belong to costs a turn that lasts longer, nothing else.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from worker.device.turns import Turn

_PIECE_BYTES = 256 << 20  # in one turn: some 30 ms of copying
_READ_BYTES = 8 << 20
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_LENGTH_BYTES = 8
_PIECES = 50  # at least, so that the progress of small models shows, too
_NO_LAYER = ""

Span = tuple[Path, int, int]  # of a file: its path, where it begins and where it ends, in bytes


def materialise(model: Any, folder: Path, report: Callable[[float], None], turn: Turn) -> None:
    """Compute all parameters of a lazily loaded model, each piece in a `turn`. `report` hears of 0 to 0.95."""
    named = [(name, array) for name, array in tree_flatten(model.parameters()) if isinstance(array, mx.array)]
    total = sum(array.nbytes for _, array in named) or 1
    done = 0
    for layer in _read_ahead(named, spans_by_layer(folder)):
        for piece in pieces(layer, min(_PIECE_BYTES, max(1, total // _PIECES))):
            with turn():
                mx.eval(piece)
            done += sum(array.nbytes for array in piece)
            report(0.95 * done / total)


def _read_ahead(named: Sequence[tuple[str, mx.array]], spans: dict[str, list[Span]]) -> Iterator[list[mx.array]]:
    """The arrays of one layer after another; the bytes of the next are being read meanwhile, each once."""
    layers = [(key, [array for _, array in group]) for key, group in groupby(named, lambda each: layer_of(each[0]))]
    with ThreadPoolExecutor(1, "weights") as reader:
        reads = [reader.submit(_read, spans.pop(key, [])) for key, _ in layers[:1]]
        for index, (_, arrays) in enumerate(layers):
            reads += [reader.submit(_read, spans.pop(key, [])) for key, _ in layers[index + 1 : index + 2]]
            reads[index].result()
            yield arrays


def layer_of(name: str) -> str:
    """The number of the layer that a tensor belongs to; empty for one that belongs to none."""
    found = _LAYER.search(name)
    return found.group(1) if found else _NO_LAYER


def pieces(arrays: Iterable[mx.array], piece_bytes: int) -> Iterator[list[mx.array]]:
    """Runs of the arrays of about `piece_bytes` each, none empty."""
    piece: list[mx.array] = []
    for array in arrays:
        piece.append(array)
        if sum(each.nbytes for each in piece) >= piece_bytes:
            yield piece
            piece = []
    if piece:
        yield piece


def spans_by_layer(folder: Path) -> dict[str, list[Span]]:
    """Where the tensors of each layer lie in the folder's files, which are known to be whole safetensors files."""
    found: dict[str, list[Span]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (_LENGTH_BYTES + length + offset for offset in entry["data_offsets"])
                found.setdefault(layer_of(name), []).append((path, begin, end))
    return found


def _read(spans: Sequence[Span]) -> None:
    """Into the system's file cache. What cannot be read now is read, or fails, when mlx reads it."""
    for path, begin, end in spans:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            for offset in range(begin, end, _READ_BYTES):
                os.pread(descriptor, min(_READ_BYTES, end - offset), offset)
        except OSError:
            return
        finally:
            os.close(descriptor)
