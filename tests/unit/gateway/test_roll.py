"""Records are read into who can be spoken with; the others are strangers, with the reason."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest

from gateway.dispatch import roll
from gateway.dispatch.roll import Roll, read_record
from gateway.models.resolve import Routes, resolve
from gateway.overview import render_overview
from shared import wire
from shared.errors import ModelNotFoundError, OverloadedError
from shared.keys import host_of
from shared.registry import Fleet, HostRecord, Reader, Stranger, WorkerLease
from shared.seal import Keyring, Purpose
from shared.work import Count
from tests.support.fleet import host, lease
from tests.support.sealed import SECRET, host_seal, lease_seal, sealed_host, sealed_lease

LEASE = lease("m")
NAME = LEASE.worker


def read(message: bytes, name: str = NAME) -> WorkerLease | Stranger:
    return read_record(name, message, WorkerLease, lease_seal(name))


def reason(message: bytes) -> str:
    stranger = read(message)
    assert isinstance(stranger, Stranger)
    assert (stranger.kind, stranger.name) == ("worker", NAME)
    return stranger.reason


def test_a_sealed_lease_is_read() -> None:
    assert read(sealed_lease(LEASE)) == LEASE
    assert read_record("host", sealed_host(host()), HostRecord, host_seal("host")) == host()


@pytest.mark.parametrize("version", [1, 2, 4, 99])
def test_another_version_is_named(version: int) -> None:
    old = b"\x92" + bytes([version]) if version < 3 else bytes([version])
    assert f"wire version {version}" in reason(old + sealed_lease(LEASE)[1:])


def test_a_reader_of_other_versions_gets_no_work() -> None:
    assert "does not read wire version 3" in reason(sealed_lease(replace(LEASE, reader=Reader(versions=(4, 5)))))


def test_another_secret_host_or_purpose_is_refused() -> None:
    data = wire.encode(LEASE)
    other = Keyring(b"another secret").of_worker(NAME).seal(Purpose.LEASE, NAME)
    for seal in (other, lease_seal("evil.m.e1"), lease_seal("host.m.e2"), host_seal("host")):
        assert "seal" in reason(seal.close(data))


@pytest.mark.parametrize(
    "fields",
    [{"model": 5}, {"state": "asleep"}, {"metrics": {"x": "y"}}, {"queues": ("a", 1)}, {"pid": True}, {"reader": None}],
)
def test_a_field_of_the_wrong_type_is_named(fields: dict[str, Any]) -> None:
    assert next(iter(fields)) in reason(sealed_lease(replace(LEASE, **fields)))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(LEASE) if field.type == "float"])
def test_a_lease_with_a_figure_that_nobody_measures_is_refused(field: str, number: float) -> None:
    """A host that was let in may still say what it likes: nobody else's requests may fail for it."""
    assert field in reason(sealed_lease(replace(LEASE, **{field: number})))
    assert "waiting_s" in reason(sealed_lease(replace(LEASE, waiting_s=(0.0, number, 0.0, 0.0))))


def test_a_record_under_another_name_or_of_another_kind_is_refused() -> None:
    other = lease_seal(NAME).close(wire.encode(replace(LEASE, worker="host.m.e9")))
    assert "host.m.e9" in reason(other)
    assert "HostRecord" in reason(lease_seal(NAME).close(wire.encode(host())))


def test_a_model_that_nobody_understood_serves_is_no_404_while_there_are_strangers() -> None:
    stranger = Stranger(kind="host", name="mac2", reason="message of wire version 4, this process speaks 3")
    for workers in ((), (LEASE,)):
        with pytest.raises(OverloadedError, match=r"mac2 gets no work: message of wire version 4") as raised:
            resolve("theirs", Fleet(workers=workers, strangers=(stranger,)), Routes())
        assert raised.value.retryable
    with pytest.raises(ModelNotFoundError):
        resolve("theirs", Fleet(workers=(LEASE,)), Routes())


def test_strangers_are_shown_by_name() -> None:
    stranger = Stranger(kind="worker", name=NAME, reason="message of wire version 4, this process speaks 3")
    status = render_overview(Fleet(workers=(LEASE,), strangers=(stranger,)))
    assert status["strangers"] == [{"kind": "worker", "name": NAME, "reason": stranger.reason}]
    assert [worker["name"] for worker in status["workers"]] == [NAME]


def test_a_worker_need_not_know_every_kind_of_work() -> None:
    reader = replace(wire.READER, codes=tuple(code for code in wire.READER.codes if code != wire._CODES[Count]))
    lease_without = replace(LEASE, reader=reader, kinds=("generate",))
    assert read(sealed_lease(lease_without)) == lease_without


def test_who_says_the_same_again_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[bytes] = []

    def reading(name: str, data: bytes, cls: Any, seal: Any) -> Any:
        reads.append(data)
        return read_record(name, data, cls, seal)

    monkeypatch.setattr(roll, "read_record", reading)
    keyring = Keyring(SECRET.encode())
    leases = Roll(WorkerLease, Purpose.LEASE, keyring.of_worker)
    first, later, junk = sealed_lease(LEASE), sealed_lease(replace(LEASE, in_flight=1)), b"\xc1"
    for _ in range(3):
        assert leases.call([NAME], [first]) == [LEASE]
    assert leases.call([NAME, "gone", "odd"], [later, None, junk])[0] == replace(LEASE, in_flight=1)
    assert leases.call([], []) == []
    assert leases.call([NAME], [first]) == [LEASE]
    assert reads == [first, later, junk, first]
    keyring.learn({host_of(NAME): 2})
    (stranger,) = leases.call([NAME], [first])
    assert isinstance(stranger, Stranger), "its key has had a new generation since"
