"""Looks at all that a placement is decided on, of one moment and in one round trip: leases, lists, what was placed and
is in no lease yet, which prefixes are where, and where the conversation was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis.asyncio

from gateway.dispatch import queue_scripts
from gateway.dispatch.asking import asking_redis
from gateway.dispatch.facts import Home, Known, Lent, Sight
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import queue_key
from gateway.dispatch.lookups import conversation_of, lookups_of
from gateway.dispatch.roll import read_record
from shared.keys import Names, host_of, word
from shared.notes import Note, read_note
from shared.registry import Fleet, HostRecord, WorkerLease
from shared.request import PRIORITIES, GenerateRequest, Link
from shared.seal import Keyring, Purpose
from shared.work import LANES

_MOST_DIGITS = 15  # of a number that we have written


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`fleet` is the last snapshot, with what is true now of the model's workers."""

    fleet: Fleet
    sights: Mapping[str, Sight]
    home: Home | None
    lent: tuple[Lent, ...]
    user_worker: str
    now_s: float


class Outlook:
    def __init__(self, broker: redis.asyncio.Redis, names: Names, keyring: Keyring, fleet: FleetWatcher) -> None:
        self._names = names
        self._keyring = keyring
        self._fleet = fleet
        self._look = broker.register_script(queue_scripts.LOOK)
        self._leases: dict[str, tuple[bytes, WorkerLease]] = {}  # what was read last, and what it says
        self._keys_of: dict[str, list[str]] = {}

    async def look(self, request: GenerateRequest, *, but: str = "") -> Look:
        """`but` is a job that is not counted where it waits. Raises `BrokerUnavailableError`."""
        workers = self._fleet.snapshot.ready_workers(request.model)
        links = lookups_of(request)
        asked = conversation_of(request)
        keys = [self._names.home(asked.key), self._names.home(asked.user)]
        keys += [key for worker in workers for key in self._keys(worker)]
        lenders = [host for host in self._fleet.snapshot.hosts if host.files] if workers else []
        keys += [self._names.disk(word(host.host), request.model) for host in lenders]
        async with asking_redis("the workers could not be looked at"):
            reply = await self._look(keys, [len(LANES), len(lenders), *(link.digest for link in links)])
        (seconds, micros), home, user, *rows = reply
        at = len(workers)
        found = {name.worker: self._read(name, row, links, but) for name, row in zip(workers, rows[:at], strict=True)}
        alive = (
            found[worker.worker][0] if worker.worker in found else worker for worker in self._fleet.snapshot.workers
        )
        return Look(
            fleet=replace(self._fleet.snapshot, workers=tuple(lease for lease in alive if lease is not None)),
            sights={name: sight for name, (_, sight) in found.items()},
            home=read_home(home) if asked.key else None,
            lent=tuple(_lent(host, row, links) for host, row in zip(lenders, rows[at:], strict=True)),
            user_worker=user.decode(errors="replace") if user and asked.user else "",
            now_s=int(seconds) + int(micros) / 1e6,
        )

    def _keys(self, worker: WorkerLease) -> list[str]:
        names, name = self._names, worker.worker
        found = self._keys_of.get(name)
        if found is None:
            lists = [queue_key(names.worker_queue(worker.own_id, name, lane)) for lane in LANES]
            known = (names.resident(name), names.disk(host_of(name), worker.own_id), names.soon(name))
            found = self._keys_of[name] = [names.lease(name), names.placed(name), *known, *lists]
        return found

    def _read(
        self, worker: WorkerLease, row: Sequence[Any], links: Sequence[Link], but: str
    ) -> tuple[WorkerLease | None, Sight]:
        """None for a worker that is gone."""
        data, flat, memory, memory_tokens, disk, disk_tokens, soon, lengths = row
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        version = _whole(fields.pop(b"v", b"0"))
        cold_s = float(_whole(fields.pop(b"cold", b"0")))
        notes = {job.decode(errors="replace"): read_note(note.decode(errors="replace")) for job, note in fields.items()}
        own = notes.pop(but, None)
        sight = Sight(
            version=version,
            notes={job: note for job, note in notes.items() if not note.is_claimed},
            memory=_known(links, memory, memory_tokens),
            disk=_known(links, disk, disk_tokens),
            soon=_known(links, soon, 0),
            cold_s=cold_s,
        )
        lease = self._lease(worker, data)
        if lease is None:
            return None, sight
        depths = dict(zip(LANES, map(int, lengths), strict=True))
        if own is not None and not own.is_claimed and depths.get(own.lane):
            depths[own.lane] -= 1
        classes = tuple(depths.pop(priority) for priority in PRIORITIES)
        lease = _with_claimed(lease, [note for note in notes.values() if note.is_claimed])
        return replace(lease, queued=classes, beside=depths, placed=version), sight

    def _lease(self, worker: WorkerLease, data: bytes | None) -> WorkerLease | None:
        """A lease is opened once: most looks find the one that the look before found."""
        if not data:
            return None
        last, lease = self._leases.get(worker.worker, (b"", worker))
        if data != last:
            seal = self._keyring.of_worker(worker.worker).seal(Purpose.LEASE, worker.worker)
            record = read_record(worker.worker, data, WorkerLease, seal)
            if not isinstance(record, WorkerLease):
                return None
            self._forget_the_gone()
            record = replace(record, model=worker.model, own_model=worker.own_model)
            self._leases[worker.worker] = (data, record)
            return record
        return lease

    def _forget_the_gone(self) -> None:
        alive = {worker.worker for worker in self._fleet.snapshot.workers}
        self._leases = {name: each for name, each in self._leases.items() if name in alive}
        self._keys_of = {name: each for name, each in self._keys_of.items() if name in alive}


def read_home(data: bytes | None) -> Home | None:
    words = (data or b"").split(b" ")
    if len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return Home(words[0].decode(errors="replace"), _whole(words[1]), _whole(words[2]))


def _known(links: Sequence[Link], number: int, tokens: Any) -> Known:
    """`number` counts from 1, 0 for none."""
    if not 0 < int(number) <= len(links):
        return Known()
    return Known(int(float(tokens)), links[int(number) - 1].text_bytes)


def _lent(host: HostRecord, row: Sequence[Any], links: Sequence[Link]) -> Lent:
    return Lent(word(host.host), host.files, _known(links, *row))


def _with_claimed(lease: WorkerLease, claimed: Sequence[Note]) -> WorkerLease:
    """What was claimed and is in no lease yet holds a place, and is yet to be prefilled."""
    if not claimed:
        return lease
    nothing = tuple(0 for _ in PRIORITIES)
    lanes = [note.lane for note in claimed]
    coming_s = [sum(note.prefill_s for note in claimed if note.lane == priority) for priority in PRIORITIES]
    held = zip(PRIORITIES, lease.held or nothing, strict=True)
    return replace(
        lease,
        held=tuple(count + lanes.count(priority) for priority, count in held),
        waiting_s=tuple(map(sum, zip(lease.waiting_s or nothing, coming_s, strict=True))),
    )


def _whole(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else 0
