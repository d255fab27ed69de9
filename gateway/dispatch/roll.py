"""Who is in the fleet: records as they lie in Redis, read into those who can be spoken with and strangers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared import wire
from shared.errors import WireError
from shared.fits import absurd, misfit
from shared.keys import word
from shared.registry import GatewayRecord, HostRecord, Stranger, StrangerKind, WorkerLease
from shared.seal import HostKey, Purpose, Seal

Record = WorkerLease | HostRecord | GatewayRecord
_R = TypeVar("_R", WorkerLease, HostRecord, GatewayRecord)
_KINDS: dict[type, StrangerKind] = {WorkerLease: "worker", HostRecord: "host", GatewayRecord: "gateway"}


@dataclass(frozen=True, slots=True)
class _Known(Generic[_R]):
    """`record` is what `data` says, sealed with `key`."""

    data: bytes
    key: HostKey
    record: _R | Stranger


class Roll(Generic[_R]):
    """Calls those of one class, whose records are sealed for one purpose. Who says the same as at the last call was
    understood then."""

    def __init__(self, cls: type[_R], purpose: Purpose, key_of: Callable[[str], HostKey]) -> None:
        self._cls: type[_R] = cls
        self._purpose = purpose
        self._key_of = key_of
        self._known: dict[str, _Known[_R]] = {}

    def call(self, names: Sequence[str], values: Sequence[bytes | None]) -> list[_R | Stranger]:
        """`values` are the records of `names`, None where there is none."""
        there = ((name, data) for name, data in zip(names, values, strict=False) if data is not None)
        self._known = {name: self._read(name, data) for name, data in there}
        return [known.record for known in self._known.values()]

    def _read(self, name: str, data: bytes) -> _Known[_R]:
        key, known = self._key_of(name), self._known.get(name)
        if known is not None and known.data == data and known.key == key:
            return known
        return _Known(data, key, read_record(name, data, self._cls, key.seal(self._purpose, name)))


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
