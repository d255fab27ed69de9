"""Files of kept segments: how they are laid out, and how each part proves that it is whole and the right one. No tensor
library is needed here: whoever only looks at files, or sends them, does without.

A file is safetensors (https://github.com/huggingface/safetensors#format). The metadata of its header says whose prefix
it is (model, tenant's root, key), where it hangs (parent file and depth), which of its tokens were answers, the CRC-32
of each tensor, and that of the header without this last one; so any tensor can be read, and trusted, alone. The first
tensor holds the tokens, so that header and tokens are read in one go.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import operator
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from worker.prefix_cache.node import AnswerSpan
from worker.prefix_cache.tokens import TOKEN_BYTES, count_tokens

FORMAT = "3"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 64 << 20
_TOKENS = "tokens"
_SUM_DIGITS = 8
# Of content with another form.
_MISFITS = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error)
_Bytes = TypeVar("_Bytes", bytes, memoryview)


class DamagedFileError(Exception):
    """The file is not what it should be, with the reason."""


class OtherFormatError(DamagedFileError):
    """Another version of this program wrote the file: nothing is wrong with it, and nothing to be done with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What a file holds: tokens `start..end` of a prefix, continuing file `parent` (empty at the root) at `start`.
    `answers` are those that end in it, `marks` names that others have for prefixes that end in it, by depth. `used_s`
    is when it was last written or read, in seconds since the epoch."""

    key: bytes
    parent: bytes
    seed: bytes
    start: int
    tokens: bytes
    is_checkpoint: bool
    answers: tuple[AnswerSpan, ...] = ()
    marks: Mapping[bytes, int] = field(default_factory=dict, compare=False)
    nbytes: int = 0
    used_s: float = 0.0

    @property
    def end(self) -> int:
        return self.start + count_tokens(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHead:
    """What a file begins with, as it lies there: its header and its tokens. `nbytes` is the size of all of it."""

    data: bytes
    nbytes: int
    used_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a file will hold: the tensors' dtype names, shapes and sizes by name, in the order of their bytes, and the
    shape of its states as JSON."""

    info: FileInfo
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]]
    states: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` is where it lies in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


# -- writing ---------------------------------------------------------------------------------------------------------


class _Sums:
    """CRC-32 of tensors of the given sizes, whose bytes come one after another in pieces cut anywhere."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._left = list(sizes)
        self._at = 0
        self.values = [0] * len(sizes)

    def add(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            part = rest[: self._left[self._at]]
            self.values[self._at] = zlib.crc32(part, self.values[self._at])
            self._left[self._at] -= len(part)
            rest = rest[len(part) :]
            if not self._left[self._at]:
                self._at += 1


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
        """The header is written last, when the checksums are known; its room is left free."""
        info = self._shape.info
        tensors = {_TOKENS: ("U32", (count_tokens(info.tokens),), len(info.tokens)), **self._shape.tensors}
        for name, (dtype, shape, nbytes) in tensors.items():
            offsets = [self._size, self._size + nbytes]
            self._header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
            self._size += nbytes
        self._sums = _Sums([nbytes for _, _, nbytes in tensors.values()])
        self._header["__metadata__"] = _metadata(info, self._shape.states, "0" * _SUM_DIGITS * len(tensors))
        self._room = -(-len(_sealed(self._header)) // _LENGTH_BYTES) * _LENGTH_BYTES
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # people remove it to have their space back
        self._file = open(self._temporary, "wb", opener=_for_the_owner_alone)  # noqa: SIM115  # closed by `end`
        self._file.seek(_LENGTH_BYTES + self._room)
        self.add(info.tokens)

    def add(self, piece: bytes) -> None:
        self._sums.add(piece)
        self._file.write(piece)

    def end(self) -> int:
        """The file's size, now that it is whole."""
        self._header["__metadata__"]["sums"] = "".join(map(_digits, self._sums.values))
        encoded = _sealed(self._header)
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


def _metadata(info: FileInfo, states: str, sums: str) -> dict[str, str]:
    return {
        "format": FORMAT,
        "key": info.key.hex(),
        "parent": info.parent.hex(),
        "seed": info.seed.hex(),
        "start": str(info.start),
        "is_checkpoint": str(int(info.is_checkpoint)),
        "marks": json.dumps({tag.hex(): depth for tag, depth in info.marks.items()}),
        "answers": json.dumps([[a.key.hex(), a.reasoning.hex(), a.start, a.end, *a.rest] for a in info.answers]),
        "states": states,
        "sums": sums,
    }


def _digits(crc: int) -> str:
    return f"{crc:0{_SUM_DIGITS}x}"


def _sealed(header: Mapping[str, Any]) -> bytes:
    """The header's text, with its own checksum behind the rest of its metadata."""
    metadata = {**header["__metadata__"], "header": _digits(zlib.crc32(json.dumps(header).encode()))}
    return json.dumps({**header, "__metadata__": metadata}).encode()


def _for_the_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


# -- reading ---------------------------------------------------------------------------------------------------------


def read_info(path: Path) -> FileInfo:
    """What the file says it holds; its size, its header and its tokens are checked, and nothing else is read. Raises
    `DamagedFileError`."""
    return parse_info(read_head(path))


def read_head(path: Path) -> FileHead:
    """Header and tokens as they lie in the file, unchecked. Raises `DamagedFileError` where there are none."""
    try:
        with path.open("rb") as file:
            header, data_start = _read_header(file)
            size = data_start + int(header[_TOKENS]["data_offsets"][1])
            file.seek(0)
            status = os.fstat(file.fileno())
            return FileHead(data=file.read(size), nbytes=status.st_size, used_s=status.st_mtime)
    except (OSError, *_MISFITS) as error:
        raise DamagedFileError(f"{type(error).__name__}: {error}") from error


def parse_info(head: FileHead) -> FileInfo:
    """See `read_info`."""
    try:
        file = io.BytesIO(head.data)
        header, data_start = _read_header(file)
        end = max(int(entry["data_offsets"][1]) for entry in _entries(header).values())
        if head.nbytes != data_start + end:
            raise DamagedFileError(f"{head.nbytes} bytes instead of {data_start + end}")
        first, last = header[_TOKENS]["data_offsets"]
        if first != 0:
            raise DamagedFileError("the tokens do not come first")
        return _info(header, _checked(header, _TOKENS, file.read(last)), head)
    except _MISFITS as error:
        raise DamagedFileError(f"{type(error).__name__}: {error}") from error


class MappedFile:
    """A file's tensors where they lie. Files are made whole, renamed and removed, never changed, so that what is mapped
    stays as long as it is used. Raises `DamagedFileError`."""

    def __init__(self, path: Path) -> None:
        self.info = read_info(path)
        try:
            with path.open("rb") as file:
                self._header, self._data_start = _read_header(file)
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, *_MISFITS) as error:
            raise DamagedFileError(f"{type(error).__name__}: {error}") from error
        self._data = memoryview(mapping)[self._data_start :]

    @property
    def states(self) -> str:
        return str(self._header["__metadata__"]["states"])

    @property
    def shape(self) -> Shape:
        """What its header says of its tensors. Raises `DamagedFileError`."""
        try:
            return Shape(
                info=self.info, tensors={name: self._described(name) for name in self.names}, states=self.states
            )
        except _MISFITS as error:
            raise DamagedFileError(f"{type(error).__name__}: {error}") from error

    def _described(self, name: str) -> tuple[str, tuple[int, ...], int]:
        entry = self._header[name]
        first, last, *axes = map(operator.index, (*entry["data_offsets"], *entry["shape"]))
        if not 0 <= first <= last or any(size < 0 for size in axes):
            raise DamagedFileError(f"{name} lies where nothing can")
        return str(entry["dtype"]), tuple(axes), last - first

    @property
    def names(self) -> list[str]:
        """Of all tensors but the tokens', in the order of their bytes."""
        return [name for name in _entries(self._header) if name != _TOKENS]

    def tensor(self, name: str) -> Tensor:
        """Once its checksum was compared. Raises `DamagedFileError`."""
        try:
            entry = self._header[name]
            data = _checked(self._header, name, self._data[slice(*entry["data_offsets"])])
            return Tensor(name, str(entry["dtype"]), tuple(entry["shape"]), data)
        except _MISFITS as error:
            raise DamagedFileError(f"{type(error).__name__}: {error}") from error


def check_file(path: Path) -> MappedFile:
    """Compare all checksums. Raises `DamagedFileError`."""
    file = MappedFile(path)
    for name in file.names:
        file.tensor(name)
    return file


def nothing_to_check(_shape: Shape) -> None:
    """Of files of which it does not matter what a model would make of them."""


def _read_header(file: Any) -> tuple[dict[str, Any], int]:
    """The header, without its checksum, which was compared; and where the data begins."""
    length = struct.unpack("<Q", file.read(_LENGTH_BYTES))[0]
    if length > _MAX_HEADER_BYTES:
        raise DamagedFileError(f"a header of {length} bytes")
    text = file.read(length)
    header: dict[str, Any] = json.loads(text)
    metadata = header["__metadata__"]
    if metadata["format"] != FORMAT:
        raise OtherFormatError(f"format {metadata['format']}, this is {FORMAT}")
    metadata.pop("header")
    if text != _sealed(header).ljust(length):
        raise DamagedFileError("the header's checksum differs")
    return header, _LENGTH_BYTES + length


def _entries(header: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _checked(header: Mapping[str, Any], name: str, data: _Bytes) -> _Bytes:
    at = list(_entries(header)).index(name) * _SUM_DIGITS
    if header["__metadata__"]["sums"][at : at + _SUM_DIGITS] != _digits(zlib.crc32(data)):
        raise DamagedFileError(f"the checksum of {name} differs")
    return data


def _info(header: Mapping[str, Any], tokens: bytes, head: FileHead) -> FileInfo:
    metadata = header["__metadata__"]
    start = int(metadata["start"])
    if start < 0 or not tokens or len(tokens) % TOKEN_BYTES:
        raise DamagedFileError(f"{len(tokens)} bytes of tokens from {start} on")
    return FileInfo(
        key=bytes.fromhex(metadata["key"]),
        parent=bytes.fromhex(metadata["parent"]),
        seed=bytes.fromhex(metadata["seed"]),
        start=start,
        tokens=tokens,
        is_checkpoint=metadata["is_checkpoint"] == "1",
        answers=tuple(_answers(metadata["answers"], start + count_tokens(tokens))),
        marks={bytes.fromhex(tag): int(at) for tag, at in json.loads(metadata.get("marks", "{}")).items()},
        nbytes=head.nbytes,
        used_s=head.used_s,
    )


def _answers(text: str, depth: int) -> Iterator[AnswerSpan]:
    """Of a file whose tokens end at this depth."""
    for key, reasoning, *numbers in json.loads(text):
        start, end, *rest = map(operator.index, numbers)
        if not 0 <= start <= end <= depth or any(token < 0 for token in rest):
            raise DamagedFileError("an answer lies where no tokens are")
        yield AnswerSpan(
            key=bytes.fromhex(key), reasoning=bytes.fromhex(reasoning), start=start, end=end, rest=tuple(rest)
        )
