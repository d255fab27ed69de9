"""How values travel through Redis: msgpack, one extension code per class, nothing executable.

The first byte of every message is the wire version, which can be read whatever the rest is.

A class is an array that begins with its mark, an empty extension with the class's code, and goes on with its fields
in order. JSON from a client has no extensions, so none of it can ever pass for one of ours. New fields are added at
the end with a default; a reader fills in what an older writer left out and ignores what a newer one added.

Every token passes here in two processes, so a value is packed in one pass and unpacked in another, without copies of
its parts in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import Any, NamedTuple

import msgpack
import orjson

from shared import events, exact, messages, pieces, registry, request, work
from shared.errors import WireError

WIRE_VERSION = 3

# The code is the wire contract: never renumber, never reuse.
_CODES: dict[type, int] = {
    messages.TextPart: 1,
    messages.ReasoningPart: 2,
    messages.ImagePart: 3,
    messages.DocumentPart: 4,
    messages.ToolCallPart: 5,
    messages.ToolReferencePart: 6,
    messages.ToolResultPart: 7,
    messages.Message: 8,
    request.ToolDefinition: 16,
    request.ToolChoice: 17,
    request.SamplingParams: 18,
    request.ReasoningOptions: 19,
    request.GenerateRequest: 20,
    request.Resume: 23,  # 21 was an envelope that could hold nothing but a request
    request.End: 22,
    work.Envelope: 24,
    work.Generate: 25,
    work.Count: 26,
    work.Embed: 27,
    work.Transcribe: 28,
    work.Speak: 29,
    events.Usage: 32,
    events.TokenLogprob: 33,
    events.Progress: 34,
    events.Started: 35,
    events.TextDelta: 36,
    events.ReasoningDelta: 37,
    events.ToolCallStarted: 38,
    events.ToolCallDelta: 39,
    events.ToolCallFinished: 40,
    events.Finished: 41,
    events.Failed: 42,
    events.Counted: 43,
    events.Returned: 44,
    events.Embedded: 45,
    events.Relayed: 46,
    registry.WorkerLease: 48,
    registry.ModelRecord: 49,
    registry.HostRecord: 50,
    registry.GatewayRecord: 51,
    registry.Reader: 52,
    exact.ExactNumber: 53,
    request.Join: 54,
    events.Word: 55,
    events.Segment: 56,
    events.Heard: 57,
    events.Transcribed: 58,
    events.Sound: 59,
    events.Spoken: 60,
    request.TakeOver: 61,
    pieces.LookAtPieces: 62,
    pieces.Piece: 63,
    pieces.Pieces: 64,
}

CODES = frozenset(_CODES.values())
_NAMES = {code: cls.__name__ for cls, code in _CODES.items()}
READER = registry.Reader(versions=(WIRE_VERSION,), codes=tuple(sorted(CODES)))
_VERSION = bytes([WIRE_VERSION])
_OLD_MARK = 0x92  # versions 1 and 2 were an array of two, the version first


class FrameEntry(NamedTuple):
    """What one engine step did for one request. `seq` counts this attempt's entries from 0.

    `token_ids` are the step's generated tokens, kept so that another worker could continue after them. There is one
    for every token of every stream, so it is a tuple: it travels as it is and is made from a row at once.
    """

    request_id: str
    attempt: int
    seq: int
    token_ids: tuple[int, ...]
    events: tuple[events.Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One engine step of one worker for one gateway. `seq` counts the frames of this (worker, epoch, gateway)
    from 1. A beat is a frame without entries; it repeats the last seq, so that a lost last frame shows."""

    worker: str
    epoch: str
    seq: int
    entries: tuple[FrameEntry, ...]


class _Shape:
    """A class as the row of its fields. They are written as a frozen dataclass's own `__init__` writes them, but
    without passing them by keyword: none of the classes does anything else there."""

    __slots__ = ("_defaults", "_writers", "cls", "mark", "read")

    def __init__(self, cls: type, code: int) -> None:
        names = [field.name for field in fields(cls)]
        getter = attrgetter(*names)
        self.cls = cls
        self.mark = msgpack.ExtType(code, b"")
        self.read: Callable[[Any], tuple[Any, ...]] = getter if len(names) > 1 else lambda value: (getter(value),)
        self._writers = tuple(cls.__dict__[name].__set__ for name in names)
        self._defaults = tuple(_default(cls, index) for index in range(len(names)))

    def build(self, row: list[Any]) -> Any:
        """The value whose fields stand in `row` behind the mark."""
        value: Any = object.__new__(self.cls)
        for write, item in zip(self._writers, row[1:], strict=False):
            write(value, tuple(item) if type(item) is list else item)
        for index in range(len(row) - 1, len(self._writers)):
            self._writers[index](value, self._defaults[index]())
        return value


def _default(cls: type, index: int) -> Callable[[], Any]:
    """Makes the value of a field that an older writer left out."""
    field = fields(cls)[index]
    if field.default_factory is not MISSING:
        return field.default_factory
    if field.default is not MISSING:
        return lambda: field.default

    def refuse() -> Any:
        raise WireError(f"{cls.__name__} without {field.name}")

    return refuse


_SHAPES = {cls: _Shape(cls, code) for cls, code in _CODES.items()}
_SHAPES_BY_CODE = {code: _SHAPES[cls] for cls, code in _CODES.items()}
# The fields of a request that are packed: neighbours, in their order.
_PACKED = ("messages", "tools")
_FIRST_PACKED = [field.name for field in fields(request.GenerateRequest)].index(_PACKED[0])
_BUFFER_BYTES = 64 * 1024  # msgpack's own 256 KiB take longer to get than a frame to pack


def _marked(value: Any) -> tuple[Any, ...]:
    shape = _SHAPES.get(type(value))
    if shape is not None:
        return (shape.mark, *shape.read(value))
    if isinstance(value, int):  # msgpack asks here about integers that it cannot hold
        raise WireError(f"integer of {value.bit_length()} bits is too big to encode")
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.Packer(default=_marked, buf_size=_BUFFER_BYTES).pack(value)
    return packed


def _shape_of(code: int, data: bytes) -> _Shape:
    shape = _SHAPES_BY_CODE.get(code)
    if shape is None or data:
        raise WireError(f"unknown extension code {code}" if shape is None else f"a mark of {len(data)} bytes")
    return shape


def _unmarked(items: list[Any]) -> Any:
    return items[0].build(items) if items and type(items[0]) is _Shape else items


def _unpack(data: memoryview) -> Any:
    return msgpack.unpackb(data, ext_hook=_shape_of, list_hook=_unmarked, raw=False, strict_map_key=False)


def encode(value: Any) -> bytes:
    """Versioned bytes of any value made of plain data and the classes above. Raises `WireError` for an integer
    of more than 64 bits."""
    if type(value) is work.Envelope and isinstance(value.request, request.PackedRequest):
        return _encode_packed(value, value.request)
    return _VERSION + _pack(value)


def code_of(cls: type) -> int | None:
    """The class's code; None for one that does not travel."""
    return _CODES.get(cls)


def name_of(code: int) -> str:
    return _NAMES[code]


def codes_in(data: bytes) -> frozenset[int]:
    """The codes of all classes in what `encode` made."""
    found: set[int] = set()
    msgpack.unpackb(
        memoryview(data)[1:], ext_hook=lambda code, _: found.add(code), raw=False, strict_map_key=False, use_list=False
    )
    return frozenset(found)


def version_of(data: bytes) -> int:
    """The version in which a message was written; 0 when it has none."""
    if data[:1] and data[0] == _OLD_MARK:
        return data[1] if len(data) > 1 else 0
    return data[0] if data else 0


def check_version(data: bytes) -> None:
    """Raises `WireError` for a message of another version than this process speaks."""
    if data[:1] != _VERSION:
        raise WireError(f"message of wire version {version_of(data)}, this process speaks {WIRE_VERSION}")


def pack(given: request.GenerateRequest) -> request.PackedRequest:
    """The request with its conversation and tools encoded. Raises `WireError`."""
    chunks: list[bytes] = []
    spans = []
    size = 0
    for name in _PACKED:
        places, size = _pack_row(getattr(given, name), chunks, size)
        spans.append(places)
    data = b"".join(chunks)
    light = {field.name: getattr(given, field.name) for field in fields(given)} | dict.fromkeys(_PACKED, ())
    digest = hashlib.blake2b(data, digest_size=20).digest()
    return request.PackedRequest(
        **light, packed=request.Packed(digest=digest, data=data, messages=spans[0], tools=spans[1])
    )


def _pack_row(items: tuple[Any, ...], chunks: list[bytes], size: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Add the row to the chunks, `size` bytes so far. Where each item lies, and the size."""
    packer = msgpack.Packer(default=_marked, buf_size=_BUFFER_BYTES)
    chunks.append(packer.pack_array_header(len(items)))
    size += len(chunks[-1])
    places = []
    for item in items:
        chunks.append(packer.pack(item))
        places.append((size, size + len(chunks[-1])))
        size = places[-1][1]
    return tuple(places), size


def _encode_packed(envelope: work.Envelope, given: request.PackedRequest) -> bytes:
    """As `encode` writes the same envelope with the request that was packed. In msgpack an array is its length and
    then its items, so what is encoded already is put where it belongs."""
    outer, inner = _SHAPES[work.Envelope], _SHAPES[type(envelope.work)]
    request_row = _SHAPES[request.GenerateRequest].read(given)
    outer_row, inner_row = outer.read(envelope), inner.read(envelope.work)  # what each holds stands first
    at = _FIRST_PACKED
    packer = msgpack.Packer(default=_marked, autoreset=False)
    for length, *items in (
        (1 + len(outer_row), outer.mark),
        (1 + len(inner_row), inner.mark),
        (1 + len(request_row), _SHAPES[request.GenerateRequest].mark, *request_row[:at]),
    ):
        packer.pack_array_header(length)
        for item in items:
            packer.pack(item)
    head = packer.bytes()
    rest = (*request_row[at + len(_PACKED) :], *inner_row[1:], *outer_row[1:])
    tail = b"".join(map(_pack, rest))
    return b"".join((_VERSION, head, given.packed.data, tail))


def decode(data: bytes) -> Any:
    """The value again. Raises `WireError` for anything that `encode` of this version did not write."""
    check_version(data)
    try:
        return _unpack(memoryview(data)[1:])
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"undecodable message of {len(data)} bytes: {error}") from error


def encode_frame(frame: Frame) -> bytes:
    return encode((frame.worker, frame.epoch, frame.seq, frame.entries))


def decode_frame(data: bytes) -> Frame:
    value = decode(data)
    try:
        worker, epoch, seq, rows = value
        if not (isinstance(worker, str) and isinstance(epoch, str) and isinstance(seq, int)):
            raise TypeError("worker, epoch or seq has the wrong type")
        entries = tuple([FrameEntry(r, a, s, tuple(t), tuple(ev)) for r, a, s, t, ev in rows])
        for entry in entries:
            if not (isinstance(entry.request_id, str) and isinstance(entry.seq, int)):
                raise TypeError("request id or seq of an entry has the wrong type")
    except (ValueError, TypeError) as error:
        raise WireError(f"not a frame: {error}") from error
    return Frame(worker=worker, epoch=epoch, seq=seq, entries=entries)


def decode_envelope(data: bytes) -> work.Envelope:
    value = decode(data)
    if not isinstance(value, work.Envelope):
        raise WireError(f"expected an envelope, got {type(value).__name__}")
    if type(value.work) not in work.KINDS or not isinstance(value.work.request, request.GenerateRequest):
        raise WireError(f"an envelope with {type(value.work).__name__} in it")
    return value


class JobSerializer:
    """RQ's job data as JSON, so that stock RQ tools (`rq info -S json`) read it and nothing is unpickled."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return orjson.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        return orjson.loads(data)
