"""Who is in the fleet: records as they lie in Redis, read into those who can be spoken with and strangers."""

from __future__ import annotations

from typing import TypeVar

from shared import wire
from shared.errors import WireError
from shared.fits import absurd, misfit
from shared.keys import word
from shared.registry import GatewayRecord, HostRecord, Stranger, StrangerKind, WorkerLease
from shared.seal import Seal

Record = WorkerLease | HostRecord | GatewayRecord
_R = TypeVar("_R", WorkerLease, HostRecord, GatewayRecord)
_KINDS: dict[type, StrangerKind] = {WorkerLease: "worker", HostRecord: "host", GatewayRecord: "gateway"}


def read_record(name: str, data: bytes, cls: type[_R], seal: Seal) -> _R | Stranger:
    """The record that lies under `name`, or who it is that this process cannot speak with."""
    try:
        record = wire.decode(seal.open(data))
        if not isinstance(record, cls):
            raise WireError(f"it says that it is a {type(record).__name__}")
        if field := misfit(record):
            raise WireError(f"its {field} is not of the declared type")
        if field := absurd(record):
            raise WireError(f"its {field} is no number that can be measured")
        if wire.WIRE_VERSION not in record.reader.versions:
            raise WireError(f"it does not read wire version {wire.WIRE_VERSION}")
        if _name_of(record) != name:
            raise WireError(f"it says that it is {_name_of(record)!r}")
        return record
    except WireError as error:
        return Stranger(kind=_KINDS[cls], name=name, reason=error.message)


def _name_of(record: Record) -> str:
    match record:
        case WorkerLease(worker=worker):
            return worker
        case HostRecord(host=host):
            return word(host)
        case GatewayRecord(gateway=gateway):
            return gateway
