"""Values survive the wire; what is not ours does not become ours."""

from dataclasses import fields, replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import events, messages, registry, request, wire, work
from shared.errors import WireError


def versioned(value):
    return bytes([wire.WIRE_VERSION]) + msgpack.packb(value)


TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SCHEMA = st.dictionaries(TEXT, JSON, max_size=3)

st.register_type_strategy(dict, SCHEMA)
st.register_type_strategy(int, st.integers(-(2**63), 2**63))
st.register_type_strategy(float, st.floats(allow_nan=False))


def values(cls):
    """Any instance of one of the classes on the wire."""
    special = {
        (request.SamplingParams, "logit_bias"): st.dictionaries(st.integers(0, 9), st.floats(-9, 9), max_size=2),
        (registry.WorkerLease, "metrics"): st.dictionaries(TEXT, st.floats(-9, 9), max_size=2),
        (request.GenerateRequest, "response_schema"): st.none() | SCHEMA,
        (request.ToolDefinition, "parameters"): SCHEMA,
        (events.Failed, "details"): SCHEMA,
    }
    given_fields = {f.name: special[cls, f.name] for f in fields(cls) if (cls, f.name) in special}
    return st.builds(cls, **given_fields)


@pytest.mark.parametrize("cls", sorted(wire._CODES, key=lambda c: c.__name__))
def test_every_class_survives_the_wire(cls):
    @settings(max_examples=25, deadline=None)
    @given(values(cls))
    def survives(value):
        assert value == wire.decode(wire.encode(value))

    survives()


@settings(max_examples=50, deadline=None)
@given(values(request.GenerateRequest), st.integers(1, 300))
def test_a_request_that_was_packed_travels_as_if_it_had_not_been(sent, attempt):
    packed = wire.pack(sent)
    assert (packed.messages, packed.tools) == ((), ())
    for kind in work.KINDS:
        plain = work.Envelope(work=kind(request=sent), gateway="g", attempt=attempt, deadline_s=1.5)
        light = replace(plain, work=kind(request=packed))
        assert wire.encode(light) == wire.encode(plain)
        assert wire.decode(wire.encode(light)) == plain
        renamed = replace(plain, work=kind(request=replace(packed, id="another")))
        assert wire.decode(wire.encode(renamed)).request == replace(sent, id="another")


@given(st.lists(values(events.TextDelta) | values(events.Finished), max_size=3), st.integers(0, 9))
def test_a_frame_survives_the_wire(sent, seq):
    entry = wire.FrameEntry(request_id="r", attempt=1, seq=seq, token_ids=(1, 2), events=tuple(sent))
    frame = wire.Frame(worker="w", epoch="e", seq=seq, entries=(entry,))
    assert frame == wire.decode_frame(wire.encode_frame(frame))


def test_a_field_that_an_older_writer_left_out_gets_its_default():
    mark = msgpack.ExtType(wire._CODES[events.TextDelta], b"")
    short = versioned([mark, "hello"])
    assert events.TextDelta(text="hello") == wire.decode(short)


def test_a_default_is_made_anew_for_every_value():
    mark = msgpack.ExtType(wire._CODES[events.Failed], b"")
    short = versioned([[mark, "internal", "no"], [mark, "internal", "no"]])
    one, two = wire.decode(short)
    assert one == two == events.Failed(code="internal", message="no")
    assert one.details is not two.details


def test_a_field_that_a_newer_writer_added_is_ignored():
    long = versioned([msgpack.ExtType(1, b""), "hello", "new", 3])
    assert messages.TextPart(text="hello") == wire.decode(long)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"not msgpack at all",
        bytes([wire.WIRE_VERSION + 1]) + msgpack.packb("x"),
        msgpack.packb([2, "x"]),
        msgpack.packb([1, 2, 3]),
        msgpack.packb("bare"),
        versioned(msgpack.ExtType(99, b"")),
        versioned([msgpack.ExtType(1, b"payload"), "hello"]),
        versioned([msgpack.ExtType(1, b"")]),
    ],
)
def test_foreign_bytes_are_a_wire_error(data):
    with pytest.raises(WireError):
        wire.decode(data)


@given(JSON)
def test_no_json_of_a_client_becomes_one_of_our_values(data):
    sent = request.ToolDefinition(name="t", parameters={"schema": data})
    assert sent == (received := wire.decode(wire.encode(sent)))
    assert repr(received.parameters) == repr({"schema": data})


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_wire_error(data):
    try:
        wire.decode(data)
        wire.decode_frame(data)
        wire.decode_envelope(data)
    except WireError:
        pass


@pytest.mark.parametrize("decode", [wire.decode_frame, wire.decode_envelope])
def test_a_value_of_another_kind_is_a_wire_error(decode):
    with pytest.raises(WireError):
        decode(wire.encode(messages.TextPart(text="x")))


def test_a_number_beyond_64_bits_is_a_wire_error():
    with pytest.raises(WireError, match="too big"):
        wire.encode(2**70)


def test_only_known_classes_travel():
    with pytest.raises(TypeError):
        wire.encode(object())


def test_the_job_serializer_writes_json():
    assert wire.JobSerializer.dumps(("worker.jobs.run", None, ["r", 1], {})) == b'["worker.jobs.run",null,["r",1],{}]'
    assert wire.JobSerializer.loads(b'[1,"x"]') == [1, "x"]


def test_counts_may_be_unknown() -> None:
    usage = events.Usage(input_tokens=None, cached_tokens=None, output_tokens=None, reasoning_tokens=None)
    finished = events.Finished(reason="stop", usage=usage)
    assert wire.decode(wire.encode(finished)) == finished
    assert events.total_usage([usage, usage]) == usage
    assert events.total_usage([usage, events.Usage(output_tokens=3)]).output_tokens == 3


_V = bytes([wire.WIRE_VERSION])
_BOMBS = {
    "nested lists": _V + b"\x91" * 1_000_000,
    "nested maps": _V + b"\x81" * 1_000_000,
    "a list of 4 billion": _V + b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion": _V + b"\xdf\xff\xff\xff\xff",
    "4 GB of bytes": _V + b"\xc6\xff\xff\xff\xff",
    "4 GB of text": _V + b"\xdb\xff\xff\xff\xff",
    "4 GB of an extension": _V + b"\xc9\xff\xff\xff\xff\x01",
    "no type at all": _V + b"\xc1",
    "nothing": _V,
    "text that is none": _V + b"\xa2\xff\xfe",
    "a list as a key": _V + b"\x81\x91\x01\x01",
    "more than one": _V + b"\xc0\xc0",
}


@pytest.mark.parametrize("data", _BOMBS.values(), ids=_BOMBS)
def test_what_claims_to_be_large_or_deep_is_refused(data: bytes) -> None:
    """Nothing is made of it: lengths that are told count for no more than what is there."""
    for read in (wire.decode, wire.decode_frame, wire.decode_envelope):
        with pytest.raises(WireError):
            read(data)
