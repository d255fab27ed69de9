"""What hosts and gateways put into Redis, sealed as they do it, with the secret of the tests."""

from __future__ import annotations

from shared import wire
from shared.keys import word
from shared.registry import HostRecord, WorkerLease
from shared.seal import Keyring, Purpose, Seal

SECRET = "a secret of the tests"
KEYRING = Keyring(SECRET.encode())
LOADS = KEYRING.anyone.seal(Purpose.LOADS)


def lease_seal(worker: str) -> Seal:
    return KEYRING.of_worker(worker).seal(Purpose.LEASE, worker)


def host_seal(host: str) -> Seal:
    return KEYRING.of(word(host)).seal(Purpose.HOST, word(host))


def frame_seal(worker: str, gateway: str) -> Seal:
    return KEYRING.of_worker(worker).seal(Purpose.FRAME, gateway)


def control_seal(worker: str) -> Seal:
    return KEYRING.of_worker(worker).seal(Purpose.CONTROL, worker)


def sealed_lease(lease: WorkerLease) -> bytes:
    return lease_seal(lease.worker).close(wire.encode(lease))


def sealed_host(record: HostRecord) -> bytes:
    return host_seal(record.host).close(wire.encode(record))


def open_lease(worker: str, message: bytes) -> WorkerLease:
    lease = wire.decode(lease_seal(worker).open(message))
    assert isinstance(lease, WorkerLease)
    return lease
