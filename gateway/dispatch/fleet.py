"""Watches who is alive: a snapshot of leases, hosts and queue depths, a fraction of a second old.

Every decision of the gateway is taken on this snapshot, so that a request costs no extra round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import redis.asyncio
from redis.exceptions import OutOfMemoryError, RedisError

from gateway.dispatch.identities import told_apart
from gateway.dispatch.jobs import queue_key
from gateway.dispatch.presence import Presence, away_error, reason_of
from gateway.dispatch.roll import Roll
from shared import wire
from shared.beats import until_beat_s
from shared.clock import RedisClock
from shared.errors import BrokerUnavailableError, WireError
from shared.healing import heal_async, is_wrong_type
from shared.keys import GATEWAY_TTL_S, LEASE_TTL_S, Names, host_of, word
from shared.places import NONE, Counts
from shared.registry import Fleet, GatewayRecord, HostRecord, Stranger, WorkerLease
from shared.request import PRIORITIES
from shared.seal import Keyring, Purpose
from shared.work import LANES

logger = logging.getLogger(__name__)

_TIMEOUT_S = 2.0
_FORGET_AFTER_S = 60.0
_QUIET_EVERY_S = 1.0  # between two reads while nothing is under way and nothing changes
_QUIET_AFTER_S = 10.0
_PRESENCE_EVERY_S = 1.0
_FORGOTTEN_AT_ONCE = 1000
_is_ours = re.compile(r"[A-Za-z0-9_.-]{1,1000}").fullmatch  # what `shared.keys.word` makes of names; gateways' ids


class Asked(Protocol):
    """What is read along with the fleet."""

    def ask(self, pipe: redis.asyncio.client.Pipeline) -> None:
        """Queue one command."""

    def hear(self, reply: Any) -> None:
        """What it gave, which may be a `RedisError`."""


class FleetWatcher(Presence):
    """Refreshes `snapshot` in the background and on demand; it is connected when the last try reached Redis. `unplaced`
    maps a model to the jobs that wait until a worker holds it, by class, `unplaced_beside` by lane of the kinds of work
    that have their own. `myself` is what others see of this gateway while it refreshes, with the `faults` of its
    settings files; `on_hosts` is awaited with the words of all hosts before a snapshot that shows them; `beside` is
    asked in the same round trip.

    While something `is_busy` or the fleet changes it is read every `every_s`, else each second: who begins something
    then has it read `fresh`. One reads at a time: who asks while somebody reads waits for the next read, which is of
    everybody who asked before it began.
    """

    def __init__(
        self,
        broker: redis.asyncio.Redis,
        names: Names,
        keyring: Keyring,
        *,
        myself: GatewayRecord | None = None,
        every_s: float = 0.25,
        forget_after_s: float = _FORGET_AFTER_S,
    ) -> None:
        super().__init__()
        self._redis = broker
        self._names = names
        self._keyring = keyring
        self._myself = myself
        self.clock = RedisClock()
        self.on_round_trip: Callable[[float], None] = lambda _: None
        self.is_busy: Callable[[], bool] = bool
        self.faults: Callable[[], tuple[str, ...]] = tuple
        self.on_hosts: Callable[[Collection[str]], Awaitable[None]] | None = None
        self._every_s = every_s
        self._forget_after_s = forget_after_s
        self._workers: list[str] = []
        self._hosts: list[str] = []
        self._gateways: list[str] = []
        self._leases = Roll(WorkerLease, Purpose.LEASE, keyring.of_worker)
        self._host_records = Roll(HostRecord, Purpose.HOST, keyring.of)
        self._gateway_records = Roll(GatewayRecord, Purpose.GATEWAY, lambda _: keyring.gateways)
        self.beside: Sequence[Asked] = ()
        self._told: tuple[tuple[str, ...], bytes] | None = None  # the faults that this gateway told, and its record
        self._absent_since_s: dict[tuple[str, str], float] = {}
        self._said: set[Stranger] = set()
        self._reading = asyncio.Lock()
        self._begun = self._ended = 0  # reads, by number
        self._failure: Exception | None = None  # of the last read that ended
        self._read_s = self._changed_s = self._present_s = -math.inf  # when it was read, changed, and this gateway told
        self._wake = asyncio.Event()
        self._is_quiet = False
        self._before = Fleet()  # as it was when Redis went away
        self.snapshot = Fleet()
        self.unplaced: Mapping[str, Counts] = {}
        self.unplaced_beside: Mapping[str, Mapping[str, int]] = {}

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.refresh()
            except BrokerUnavailableError as error:
                logger.debug("fleet not refreshed: %s", error)
            await self._rest()

    async def _rest(self) -> None:
        """Until the next read is due, or somebody begins something."""
        self._wake.clear()
        is_steady = self.is_connected and time.monotonic() - self._changed_s > _QUIET_AFTER_S
        self._is_quiet = is_steady and not self.is_busy()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s()):
                await self._wake.wait()

    def _pause_s(self) -> float:
        return until_beat_s(max(self._every_s, _QUIET_EVERY_S)) if self._is_quiet else self._every_s

    async def fresh(self) -> None:
        """For who begins something: the fleet as of `every_s` ago at most. Raises `BrokerUnavailableError`."""
        if not self._is_quiet:
            return
        self._is_quiet = False
        self._wake.set()
        if time.monotonic() - self._read_s > self._every_s:
            await self.refresh()

    async def refresh(self) -> Fleet:
        """The fleet as of now. Raises `BrokerUnavailableError`; `snapshot` then keeps its last content."""
        begun_before = self._begun
        async with self._reading:
            if self._ended <= begun_before:
                await self._read_next()
            failure = self._failure
        if failure is not None:
            raise away_error("what is served cannot be known", failure) from failure
        return self.snapshot

    async def _read_next(self) -> None:
        self._begun += 1
        self._failure = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._read()
        except (RedisError, OSError, TimeoutError) as error:
            self._failure = error
            self._note_away(error)
        else:
            if self._came():
                logger.info("Redis is reached")
        self._ended = self._begun

    def _note_away(self, error: BaseException) -> None:
        if self._went():
            self._before = self.snapshot
            logger.warning("Redis cannot be reached: %s", reason_of(error))

    async def _read(self) -> None:
        """One round trip while nobody comes or goes, two when the names changed."""
        models = self._waited_for()
        sets = (self._names.workers, self._names.hosts, self._names.gateways)
        lists = [queue_key(self._names.queue(model, lane)) for model in models for lane in LANES]
        last = self._names.generations
        kinds = [*((each, "set") for each in sets), *((each, "list") for each in lists), (last, "string")]
        replies, sent_s = await self._ask(sets, lists)
        answered = zip([*replies[1:4], *replies[5:]], kinds, strict=True)
        wrong = {key: kind for reply, (key, kind) in answered if is_wrong_type(reply)}
        if wrong:
            await heal_async(self._redis, wrong)
            await self._name_again(wrong)
            replies, sent_s = await self._ask(sets, lists)
        _raise_any(replies)
        self._learn_generations(replies.pop())
        self.clock.note(replies[0], sent_s, time.monotonic())
        self.on_round_trip(time.monotonic() - sent_s)
        sorted_out = [_names(each) for each in replies[1:4]]
        members, strange = [ours for ours, _ in sorted_out], [others for _, others in sorted_out]
        records, depths = self._apart(replies[4]), replies[5:]
        await self._name_myself(members[2])
        if members != [self._workers, self._hosts, self._gateways]:
            self._workers, self._hosts, self._gateways = members
            records = self._apart(await self._redis.mget(self._record_keys()))
        fleet = told_apart(self._called(records))
        self._note_read(fleet)
        if self.on_hosts is not None:
            await self.on_hosts({host for host in (*self._hosts, *map(host_of, self._workers)) if host == word(host)})
        # A Redis that comes back empty knows nobody: who was there gets the time in which they show themselves.
        self.snapshot = fleet.with_missing(self._before) if self.connected_s < LEASE_TTL_S else fleet
        self._note_unplaced(models, depths)
        absent = [
            [*others, *_absent(names, values)] for others, names, values in zip(strange, members, records, strict=True)
        ]
        await self._forget_the_dead([(each, name) for each, names in zip(sets, absent, strict=True) for name in names])

    async def _name_again(self, gone: Collection[str]) -> None:
        """In the sets that were removed, who was known: they live on, and would be missed till they name themselves."""
        sets = (self._names.workers, self._names.hosts, self._names.gateways)
        for each, names in zip(sets, (self._workers, self._hosts, self._gateways), strict=True):
            if each in gone and names:
                await self._redis.sadd(each, *map(_member, names))

    async def _ask(self, sets: Sequence[str], lists: Sequence[str]) -> tuple[list[Any], float]:
        """The replies, errors among them: the time, the sets, the records of all known names, the lists' lengths, the
        generations of hosts' keys; and when they were asked for. Where Redis is full others do not see this gateway,
        which is no reason to see nobody. What is asked `beside` is heard here."""
        async with self._redis.pipeline(transaction=False) as pipe:
            is_told = self._queue_presence(pipe)
            pipe.time()
            for each in sets:
                pipe.smembers(each)
            pipe.mget(self._record_keys())
            for each in lists:
                pipe.llen(each)
            pipe.get(self._names.generations)
            for asked in self.beside:
                asked.ask(pipe)
            sent_s = time.monotonic()
            replies = await pipe.execute(raise_on_error=False)
        for asked in reversed(self.beside):
            asked.hear(replies.pop())
        if is_told and not isinstance(replies[0], RedisError):
            self._present_s = sent_s
        return replies[1 if is_told else 0 :], sent_s

    def _note_read(self, fleet: Fleet) -> None:
        """Who comes, goes, or has another state changes the fleet; how busy it is does not."""
        self._read_s = time.monotonic()
        if _outline(fleet) != _outline(self.snapshot):
            self._changed_s = self._read_s

    def _learn_generations(self, data: bytes | None) -> None:
        """Which hosts' keys are not their first, as the door of the fleet tells all gateways."""
        if data is None:
            return
        try:
            told: Any = wire.decode(self._keyring.gateways.seal(Purpose.GENERATIONS).open(data))
        except WireError as error:
            logger.error("the generations of hosts' keys cannot be read: %s", error)  # noqa: TRY400 - it says it all
            return
        if isinstance(told, dict):
            self._keyring.learn({host: n for host, n in told.items() if isinstance(host, str) and isinstance(n, int)})

    def _note_unplaced(self, models: Sequence[str], depths: Sequence[int]) -> None:
        rows = zip(*[iter(depths)] * len(LANES), strict=True)
        found = {model: dict(zip(LANES, map(int, row), strict=True)) for model, row in zip(models, rows, strict=True)}
        classes = {model: tuple(lanes.pop(priority) for priority in PRIORITIES) for model, lanes in found.items()}
        self.unplaced = {model: counts for model, counts in classes.items() if any(counts)}
        self.unplaced_beside = {model: lanes for model, lanes in found.items() if any(lanes.values())}

    def _waited_for(self) -> list[str]:
        """The models on whose own lists something may lie: those that nobody holds, and where something lay."""
        fleet = self.snapshot
        waited = {*self.unplaced, *self.unplaced_beside}
        return sorted({*waited, *(model for model in fleet.model_ids() if not fleet.ready_workers(model))})

    @property
    def depths(self) -> dict[str, Counts]:
        """Jobs that no worker has claimed, by model and class."""
        found = dict.fromkeys(self.snapshot.model_ids(), NONE) | dict(self.unplaced)
        for worker in self.snapshot.workers:
            found[worker.model] = tuple(map(sum, zip(found[worker.model], worker.queued or NONE, strict=True)))
        return found

    def _queue_presence(self, pipe: redis.asyncio.client.Pipeline) -> bool:
        """Whether this gateway tells that it lives, which it does each second."""
        if self._myself is None or time.monotonic() - self._present_s < _PRESENCE_EVERY_S - self._every_s / 2:
            return False
        pipe.set(self._names.gateway(self._myself.gateway), self._presence(self._myself), ex=GATEWAY_TTL_S)
        return True

    def _presence(self, myself: GatewayRecord) -> bytes:
        """The record of this gateway, sealed; mostly the one before says the same."""
        faults = self.faults()
        if self._told is None or self._told[0] != faults:
            seal = self._keyring.gateways.seal(Purpose.GATEWAY, myself.gateway)
            self._told = faults, seal.close(wire.encode(replace(myself, faults=faults)))
        return self._told[1]

    async def _name_myself(self, gateways: list[str]) -> None:
        """Among the names of all gateways, unless Redis is too full for it."""
        if self._myself is None or self._myself.gateway in gateways:
            return
        with contextlib.suppress(OutOfMemoryError):
            await self._redis.sadd(self._names.gateways, self._myself.gateway)
            gateways.append(self._myself.gateway)
            gateways.sort()

    def _record_keys(self) -> list[bytes]:
        """Of leases, hosts and gateways; one that nobody has where there are none, as Redis wants one."""
        keys = [_member(self._names.lease(name)) for name in self._workers]
        keys += [_member(self._names.host(name)) for name in self._hosts]
        keys += [_member(self._names.gateway(name)) for name in self._gateways]
        return keys or [_member(self._names.lease(""))]

    def _apart(self, values: Any) -> list[list[bytes | None]]:
        """The records behind these keys: of leases, hosts and gateways."""
        hosts = len(self._workers)
        gateways = hosts + len(self._hosts)
        return [values[:hosts], values[hosts:gateways], values[gateways : gateways + len(self._gateways)]]

    def _called(self, values: Sequence[Sequence[bytes | None]]) -> Fleet:
        """Everybody alive, those with whom nobody here can speak apart."""
        workers = self._leases.call(self._workers, values[0])
        hosts = self._host_records.call(self._hosts, values[1])
        others = self._gateway_records.call(self._gateways, values[2])
        strangers = tuple(each for each in (*workers, *hosts, *others) if isinstance(each, Stranger))
        for stranger in set(strangers) - self._said:
            logger.error("%s %s gets no work: %s", stranger.kind, stranger.name, stranger.reason)
        self._said = set(strangers)
        return Fleet(
            workers=tuple(each for each in workers if isinstance(each, WorkerLease)),
            hosts=tuple(each for each in hosts if isinstance(each, HostRecord)),
            gateways=tuple(each for each in others if isinstance(each, GatewayRecord)),
            strangers=strangers,
        )

    async def withdraw(self) -> None:
        """This gateway is not seen any more."""
        if self._myself is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):  # its record ends by itself
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._redis.delete(self._names.gateway(self._myself.gateway))
                    await self._redis.srem(self._names.gateways, self._myself.gateway)

    async def _forget_the_dead(self, absent: Sequence[tuple[str, str]]) -> None:
        """Take (set, name) out whose lease or record ended long ago; who lives adds itself again."""
        now_s = time.monotonic()
        self._absent_since_s = {each: self._absent_since_s.get(each, now_s) for each in absent}
        gone: dict[str, list[bytes]] = {}
        for (group, name), since_s in self._absent_since_s.items():
            if now_s - since_s > self._forget_after_s:
                gone.setdefault(group, []).append(_member(name))
        for group, names in gone.items():
            await self._redis.srem(group, *names[:_FORGOTTEN_AT_ONCE])


def _outline(fleet: Fleet) -> object:
    """What of a fleet is no figure."""
    workers = [(each.worker, each.state, each.load_done) for each in fleet.workers]
    models = [(host.host, model.id, model.state, model.load_done) for host in fleet.hosts for model in host.models]
    return workers, models, [each.gateway for each in fleet.gateways], fleet.strangers


def _names(members: set[bytes]) -> tuple[list[str], list[str]]:
    """(those that may be ours, the others), as text, which `_member` turns into the same bytes again: also names that
    are none of ours must go one day."""
    names = sorted(member.decode(errors="surrogateescape") for member in members)
    return [name for name in names if _is_ours(name)], [name for name in names if not _is_ours(name)]


def _member(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _absent(names: Sequence[str], values: Sequence[bytes | None]) -> list[str]:
    return [name for name, value in zip(names, values, strict=False) if value is None]


def _raise_any(replies: Sequence[object]) -> None:
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
