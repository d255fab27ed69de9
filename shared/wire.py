"""How values travel through Redis: msgpack, one extension code per class, nothing executable.

A class is an array that begins with its mark, an empty extension with the class's code, and goes on with its fields
in order. JSON from a client has no extensions, so none of it can ever pass for one of ours. New fields are added at
the end with a default; a reader fills in what an older writer left out and ignores what a newer one added.

Every token passes here in two processes, so a value is packed in one pass and unpacked in another, without copies of
its parts in between.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import Any, NamedTuple

import msgpack
import orjson

from shared import events, messages, registry, request
from shared.errors import WireError

WIRE_VERSION = 2

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
    request.Envelope: 21,
    request.Resume: 23,
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
    registry.WorkerLease: 48,
    registry.ModelRecord: 49,
    registry.HostRecord: 50,
}


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


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, ext_hook=_shape_of, list_hook=_unmarked, raw=False, strict_map_key=False)


def encode(value: Any) -> bytes:
    """Versioned bytes of any value made of plain data and the classes above. Raises `WireError` for an integer
    of more than 64 bits."""
    if type(value) is request.Envelope and isinstance(value.request, request.PackedRequest):
        return _encode_packed(value, value.request)
    return _pack([WIRE_VERSION, value])


def pack(given: request.GenerateRequest) -> request.PackedRequest:
    """The request with its conversation and tools encoded. Raises `WireError`."""
    data = b"".join(_pack(getattr(given, name)) for name in _PACKED)
    light = {field.name: getattr(given, field.name) for field in fields(given)} | dict.fromkeys(_PACKED, ())
    return request.PackedRequest(
        **light, packed=request.Packed(digest=hashlib.blake2b(data, digest_size=20).digest(), data=data)
    )


def _encode_packed(envelope: request.Envelope, given: request.PackedRequest) -> bytes:
    """As `encode` writes the same envelope with the request that was packed. In msgpack an array is its length and
    then its items, so what is encoded already is put where it belongs."""
    request_row = _SHAPES[request.GenerateRequest].read(given)
    envelope_row = _SHAPES[request.Envelope].read(envelope)
    at = _FIRST_PACKED
    packer = msgpack.Packer(default=_marked, autoreset=False)
    for length, *items in (
        (2, WIRE_VERSION),
        (1 + len(envelope_row), _SHAPES[request.Envelope].mark),
        (1 + len(request_row), _SHAPES[request.GenerateRequest].mark, *request_row[:at]),
    ):
        packer.pack_array_header(length)
        for item in items:
            packer.pack(item)
    head = packer.bytes()
    tail = b"".join(_pack(item) for item in (*request_row[at + len(_PACKED) :], *envelope_row[1:]))
    return b"".join((head, given.packed.data, tail))


def decode(data: bytes) -> Any:
    """The value again. Raises `WireError` for anything that `encode` of this version did not write."""
    try:
        version, value = _unpack(data)
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"undecodable message of {len(data)} bytes: {error}") from error
    if version != WIRE_VERSION:
        raise WireError(f"message of wire version {version!r}, this process speaks {WIRE_VERSION}")
    return value


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


def decode_envelope(data: bytes) -> request.Envelope:
    value = decode(data)
    if not isinstance(value, request.Envelope):
        raise WireError(f"expected an envelope, got {type(value).__name__}")
    return value


def sign(secret: bytes, request_id: str, attempt: int, body: bytes) -> str:
    """Hex HMAC-SHA256 over the job's identity and its body: who cannot sign cannot make a worker work."""
    digest = hashlib.sha256(body).hexdigest()
    return hmac.new(secret, f"{request_id}:{attempt}:{digest}".encode(), hashlib.sha256).hexdigest()


def is_signed(secret: bytes, request_id: str, attempt: int, body: bytes, signature: str) -> bool:
    return hmac.compare_digest(sign(secret, request_id, attempt, body), signature)


class JobSerializer:
    """RQ's job data as JSON, so that stock RQ tools (`rq info -S json`) read it and nothing is unpickled."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return orjson.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        return orjson.loads(data)
