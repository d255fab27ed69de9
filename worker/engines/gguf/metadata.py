"""Reads what a GGUF file says of itself: its metadata, and where its tensors lie.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import ModelUnavailableError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"},
}
_ALIGNMENT = 32
_MOST_ALIGNMENT = 1 << 20
_MOST_ITEMS = 1 << 26  # of an array or a table: more is a damaged file
_MOST_DIMENSIONS = 8  # of a tensor; the format has four
_MOST_LAYERS = 1 << 16
# Type of a tensor -> (values in a block, bytes of a block), for those whose sizes can be checked.
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)},
    **{23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)},
    **{34: (256, 54), 35: (256, 66), 39: (32, 17)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """`values` are the metadata by key, arrays as lists; `expected_bytes` is what the file must be long."""

    path: Path
    values: dict[str, Any]
    expected_bytes: int

    def of_architecture(self, key: str, default: Any = None) -> Any:
        """A value that the file keeps under its architecture's name."""
        return self.values.get(f"{self.values.get('general.architecture', '')}.{key}", default)

    def number(self, key: str, default: int = 0) -> int:
        """One that the file keeps under its architecture's name; the default for none and 0. Raises
        `ModelUnavailableError` for what is no count of anything in a model."""
        return self._checked(key, self.of_architecture(key)) or default

    def numbers(self, key: str, count: int) -> list[int]:
        """One for each of `count` layers, empty where there is none. Raises `ModelUnavailableError`."""
        value = self.of_architecture(key)
        if isinstance(value, list):
            return [self._checked(key, each) for each in value]
        return [self._checked(key, value)] * min(count, _MOST_LAYERS) if value else []

    def _checked(self, key: str, value: Any) -> int:
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_ITEMS:
            raise ModelUnavailableError(f"{self.path} is damaged: its {key} is {str(value)[:40]}")
        return value


def read_file(path: Path) -> GgufFile:
    """Raises `ModelUnavailableError` for what is no GGUF file, is damaged, or is cut short."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _read(path, data)
            size = len(data)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise ModelUnavailableError(f"{path} cannot be read: {error}") from error
    if size < found.expected_bytes:
        raise ModelUnavailableError(f"{path} is cut short: {size} of {found.expected_bytes} bytes; fetch it again")
    return found


def _read(path: Path, data: mmap.mmap) -> GgufFile:
    if data[:4] != _MAGIC:
        raise ModelUnavailableError(f"{path} is not a GGUF file")
    reader = _Reader(path, data)
    try:
        version, tensors, pairs = reader.scalar("<I"), reader.scalar("<Q"), reader.scalar("<Q")
        if version not in _VERSIONS:
            raise ModelUnavailableError(f"{path} is of GGUF version {version}; versions 2 and 3 are read")
        values = {reader.text(): reader.value(reader.scalar("<I")) for _ in reader.times(pairs)}
        end = max((reader.tensor_end() for _ in reader.times(tensors)), default=0)
    except struct.error as error:
        raise ModelUnavailableError(f"{path} is damaged or cut short: its header does not end") from error
    alignment = values.get("general.alignment") or _ALIGNMENT
    if not isinstance(alignment, int) or not 0 < alignment <= _MOST_ALIGNMENT:
        raise ModelUnavailableError(f"{path} is damaged: its alignment is {str(alignment)[:40]}")
    start = -(-reader.position // alignment) * alignment
    return GgufFile(path=path, values=values, expected_bytes=start + end if end else reader.position)


class _Reader:
    """Goes through a file's header. Raises `struct.error` at its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self.position = len(_MAGIC)

    def times(self, count: int) -> range:
        if not 0 <= count <= _MOST_ITEMS:
            raise ModelUnavailableError(f"{self._path} is damaged: it counts {count} items")
        return range(count)

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self.position)
        self.position += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.scalar("<Q")
        if length > len(self._data) - self.position:
            raise struct.error("a text goes beyond the file's end")
        self.position += length
        return self._data[self.position - length : self.position].decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _ARRAY:
            kind, count = self.scalar("<I"), self.scalar("<Q")
            read = self._reader_of(kind)
            return [read() for _ in self.times(count)]
        return self._reader_of(kind)()

    def _reader_of(self, kind: int) -> Callable[[], Any]:
        if kind == _STRING:
            return self.text
        if kind not in _SCALARS:
            raise ModelUnavailableError(f"{self._path} is damaged: it has a value of the unknown type {kind}")
        form = _SCALARS[kind]
        return lambda: self.scalar(form)

    def tensor_end(self) -> int:
        """Where the next tensor ends, behind the header; 0 where its type is not known here."""
        self.text()
        values = 1
        dimensions = self.scalar("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise ModelUnavailableError(f"{self._path} is damaged: it has a tensor of {dimensions} dimensions")
        for _ in range(dimensions):
            values *= self.scalar("<Q")
        kind, offset = self.scalar("<I"), self.scalar("<Q")
        if kind not in _BLOCKS:
            return 0
        per_block, block_bytes = _BLOCKS[kind]
        return int(offset + values // per_block * block_bytes)
