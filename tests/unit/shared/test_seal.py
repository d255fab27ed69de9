"""What is sealed is valid for one key, purpose and subject, and for nothing else."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import wire
from shared.errors import WireError, build_error
from shared.registry import Reader
from shared.seal import Keyring, Purpose, derive_key, keys_of_host
from shared.work import job_subject

RING = Keyring(b"master")
MESSAGE = wire.encode(["words", 1])


def test_what_is_sealed_can_be_opened_with_the_same_key() -> None:
    seal = RING.of("mac").seal(Purpose.FRAME, "gw1")
    assert seal.open(seal.close(MESSAGE)) == MESSAGE
    assert len(seal.close(MESSAGE)) == len(MESSAGE) + 32


def test_no_seal_opens_what_another_has_closed() -> None:
    seals = [
        key.seal(purpose, about)
        for key in (RING.of("mac"), RING.of("mac2"), RING.anyone, RING.gateways, derive_key(b"other", "mac"))
        for purpose in Purpose
        for about in ("", "a", "b")
    ]
    for one, other in itertools.permutations(seals, 2):
        with pytest.raises(WireError):
            other.open(one.close(MESSAGE))


def test_subject_and_purpose_cannot_run_into_each_other() -> None:
    with pytest.raises(WireError):
        derive_key(b"m", "h").seal(Purpose.HOST, "x").open(derive_key(b"m", "h").seal(Purpose.HOST, "").close(b"\x03x"))


def test_a_new_generation_locks_a_host_out() -> None:
    before, after = Keyring(b"m"), Keyring(b"m", {"mac": 2})
    message = before.of("mac").seal(Purpose.LEASE, "mac.m.e").close(MESSAGE)
    with pytest.raises(WireError):
        after.of("mac").seal(Purpose.LEASE, "mac.m.e").open(message)
    other = before.of("mac2").seal(Purpose.LEASE, "mac2.m.e").close(MESSAGE)
    assert after.of("mac2").seal(Purpose.LEASE, "mac2.m.e").open(other) == MESSAGE


def test_a_host_holds_its_own_key_and_nobody_elses() -> None:
    keys = keys_of_host(b"m", "mac")
    assert keys.of("mac") == Keyring(b"m").of("mac")
    with pytest.raises(WireError, match="mac2"):
        keys.of("mac2")
    assert "secret" not in repr(keys)


@given(st.integers(0, len(MESSAGE) + 31), st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, change: int) -> None:
    seal = RING.of("mac").seal(Purpose.FRAME, "gw1")
    message = bytearray(seal.close(MESSAGE))
    message[place] ^= change
    with pytest.raises(WireError):
        seal.open(bytes(message))


@given(st.binary(max_size=80))
def test_junk_is_refused_and_raises_nothing_else(junk: bytes) -> None:
    with pytest.raises(WireError):
        RING.of("mac").seal(Purpose.FRAME, "gw1").open(junk)


@pytest.mark.parametrize("signature", ["", "00", "ü" * 64, "\udcff", "0" * 64])
def test_a_signature_of_any_text_is_wrong_and_raises_nothing(signature: str) -> None:
    assert not RING.anyone.is_signed("r1-1", b"body", signature)


def test_a_jobs_signature_holds_for_one_kind_of_work_one_job_one_host_and_one_body() -> None:
    key = RING.of("mac")
    count = job_subject("count", "r1-1")
    signature = key.sign(count, b"body")
    assert key.is_signed(count, b"body", signature)
    assert not key.is_signed(job_subject("count", "r1-2"), b"body", signature)
    assert not key.is_signed(job_subject("generate", "r1-1"), b"body", signature), "another kind of work"
    assert not key.is_signed(count, b"other", signature)
    assert not RING.of("mac2").is_signed(count, b"body", signature)
    frame = key.seal(Purpose.FRAME, count).code_of(b"body").hex()
    assert not key.is_signed(count, b"body", frame), "a code for another purpose"


def test_the_version_can_be_read_whatever_the_rest_is() -> None:
    seal = RING.of("mac").seal(Purpose.FRAME, "gw1")
    assert wire.version_of(seal.close(MESSAGE)) == wire.version_of(MESSAGE) == wire.WIRE_VERSION
    assert wire.version_of(b"\x07\xc1\xc1") == 7
    assert wire.version_of(b"\x92\x02\xa1x") == 2, "as version 2 wrote it"
    with pytest.raises(WireError, match="version 7"):
        seal.open(b"\x07" + seal.close(MESSAGE)[1:])


def test_a_process_says_what_it_reads() -> None:
    assert Reader(versions=(wire.WIRE_VERSION,), codes=tuple(sorted(wire._CODES.values()))) == wire.READER


@pytest.mark.parametrize("details", [{"message": "x"}, {"self": 1}, {"code": None}])
def test_an_error_with_any_details_is_rebuilt(details: dict[str, object]) -> None:
    error = build_error("wire", "text", details)
    assert (error.message, error.details) == ("text", details)
