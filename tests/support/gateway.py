"""A gateway's parts on a real Redis, and a worker's side of the wire done by hand, frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import redis.asyncio

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.dispatch import Dispatch, Ways
from gateway.dispatch.facts import Placed
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import JobQueue
from gateway.dispatch.streams import FrameHub
from gateway.dispatch.tasks import cancel_all
from gateway.dispatch.watchdog import Patience, Watchdog
from gateway.parts import connect_broker
from shared import keys, wire
from shared.config import Settings
from shared.events import Event, Failed, Finished, Started, TextDelta, Usage
from shared.keys import host_of
from shared.registry import WorkerLease
from shared.request import GenerateRequest
from shared.wire import Frame, FrameEntry
from shared.work import Generate
from tests.support.fleet import lease
from tests.support.names import NAMES
from tests.support.sealed import KEYRING, frame_seal, sealed_lease

DEADLINE_S = 40.0
PATIENCE = Patience(silence_s=1.0, broker_away_s=1.0)
_BEAT_S = 0.2


async def until(condition: Callable[[], object], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds; fails the test, saying `what` was awaited."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        await asyncio.sleep(0.005)


async def until_true(condition: Callable[[], Awaitable[object]], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    end_s = time.monotonic() + deadline_s
    while not await condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        await asyncio.sleep(0.005)


@dataclass
class HandWorker:
    """Publishes frames as `worker.publisher` does: into the log, then on the channel."""

    client: redis.asyncio.Redis
    gateway: str
    worker: str = "host.m.e1"
    epoch: str = "e1"
    model: str = "m"
    seq: int = 0
    entry_seqs: dict[str, int] = field(default_factory=dict)

    def frame(self, *entries: FrameEntry) -> Frame:
        self.seq += 1
        return Frame(worker=self.worker, epoch=self.epoch, seq=self.seq, entries=entries)

    def entry(self, request_id: str, *events: Event, attempt: int = 1, token_ids: tuple[int, ...] = ()) -> FrameEntry:
        seq = self.entry_seqs.get(request_id, 0)
        self.entry_seqs[request_id] = seq + 1
        return FrameEntry(request_id=request_id, attempt=attempt, seq=seq, token_ids=token_ids, events=events)

    def sealed(self, frame: Frame) -> bytes:
        return frame_seal(self.worker, self.gateway).close(wire.encode_frame(frame))

    async def log(self, frame: Frame) -> None:
        data = {"f": self.sealed(frame)}
        await self.client.xadd(NAMES.frame_log(self.worker, self.gateway), data, id=f"{frame.seq}-0", maxlen=512)

    async def publish(self, frame: Frame) -> int:
        return await self.client.publish(NAMES.gateway_channel(self.gateway, host_of(self.worker)), self.sealed(frame))

    async def send(self, *entries: FrameEntry) -> int:
        """Log and publish; how many listened."""
        frame = self.frame(*entries)
        await self.log(frame)
        return await self.publish(frame)

    async def say(self, request_id: str, *events: Event) -> int:
        return await self.send(self.entry(request_id, *events))

    async def beat(self) -> int:
        return await self.publish(Frame(worker=self.worker, epoch=self.epoch, seq=self.seq, entries=()))

    async def renew(self, **fields: object) -> None:
        value: WorkerLease = lease(self.model, worker=self.worker, epoch=self.epoch, **fields)
        await self.client.set(NAMES.lease(self.worker), sealed_lease(value), ex=keys.LEASE_TTL_S)
        await self.client.sadd(NAMES.workers, self.worker)

    @contextlib.asynccontextmanager
    async def living(self, *, is_heard: bool = True) -> AsyncIterator[None]:
        """Its lease is renewed, and unless it is not heard, it beats."""

        async def live() -> None:
            while True:
                await self.renew()
                if is_heard:
                    await self.beat()
                await asyncio.sleep(_BEAT_S)

        task = asyncio.create_task(live())
        try:
            yield
        finally:
            await cancel_all([task])

    async def die(self) -> None:
        await self.client.delete(NAMES.lease(self.worker))


@dataclass
class Parts:
    """The gateway's moving parts, running."""

    client: redis.asyncio.Redis
    hub: FrameHub
    fleet: FleetWatcher
    jobs: JobQueue
    watchdog: Watchdog
    gaps: list[bool]
    refused: list[bool]

    def worker(self, name: str = "host.m.e1", epoch: str = "e1") -> HandWorker:
        return HandWorker(self.client, self.hub.gateway_id, worker=name, epoch=epoch)


@contextlib.asynccontextmanager
async def running_parts(url: str, *, with_watchdog: bool = True) -> AsyncIterator[Parts]:
    """Hub, fleet and watchdog at work on this Redis, connected."""
    client, subscriber = connect_broker(Settings(redis_url=url))
    gaps: list[bool] = []
    refused: list[bool] = []
    hub = FrameHub(
        subscriber, client, NAMES, KEYRING, "gwtest", on_gap=gaps.append, on_refused=lambda: refused.append(True)
    )
    fleet, jobs = FleetWatcher(client, NAMES, KEYRING, every_s=0.1), JobQueue(client, NAMES, KEYRING)
    fleet.on_hosts = hub.listen_to
    await hub.listen_to(["host"])
    watchdog = Watchdog(hub, fleet, jobs, PATIENCE)
    work = [hub.run(), fleet.run(), *([watchdog.run()] if with_watchdog else [])]
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        await until(lambda: hub.is_connected and fleet.is_connected, "the gateway's connections")
        yield Parts(client, hub, fleet, jobs, watchdog, gaps, refused)
    finally:
        await jobs.settle(2)
        await cancel_all(tasks)
        await client.aclose()
        await subscriber.aclose()


Scenario = Callable[[Parts], Awaitable[None]]
ANYWHERE = Placed(lane="interactive")  # no worker holds the model yet
ON_HOST = Placed(lane="interactive", worker="host.m.e1")  # any worker of the host may answer


def player(url: str, *, with_watchdog: bool = True) -> Callable[[Scenario], None]:
    """Runs one coroutine against running parts."""

    def play(scenario: Scenario) -> None:
        async def main() -> None:
            async with running_parts(url, with_watchdog=with_watchdog) as parts:
                await scenario(parts)

        asyncio.run(main())

    return play


def new_dispatch(request_id: str = "r1", *, deadline_s: float | None = None, ways: Ways | None = None) -> Dispatch:
    """A request for model `m` that has been sent to its queue."""
    deadline_s = time.time() + 60 if deadline_s is None else deadline_s
    request = GenerateRequest(id=request_id, model="m", messages=())
    dispatch = Dispatch(Generate(request=request), place=ANYWHERE, deadline_s=deadline_s, ways=ways)
    dispatch.attempt.allow(ON_HOST)
    return dispatch


@contextlib.contextmanager
def opened(
    parts: Parts, request_id: str = "r1", *, attempt: int = 1, deadline_s: float | None = None
) -> Iterator[Dispatch]:
    """A request under way, which nobody reads yet. `deadline_s` is Unix time, by default a minute from now."""
    dispatch = new_dispatch(request_id, deadline_s=deadline_s)
    dispatch.attempt = Attempt(attempt, ANYWHERE)
    dispatch.attempt.allow(ON_HOST)
    parts.hub.add(dispatch)
    try:
        yield dispatch
    finally:
        parts.hub.remove(dispatch)


async def collect(stream: Dispatch, count: int, *, deadline_s: float = DEADLINE_S) -> list[Event]:
    """The stream's events from the first, at least `count` of them or up to its end."""
    events: list[Event] = []
    end_s = time.monotonic() + deadline_s
    reader = stream.join()
    try:
        while len(events) < count and not (events and isinstance(events[-1], Finished | Failed)):
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise AssertionError(f"only {events} within {deadline_s} s")
            events += await reader.wait(left_s)
    finally:
        stream.leave(reader)
    return events


def texts(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


STARTED = Started(usage=Usage(input_tokens=3), worker="host.m.e1")
FINISHED = Finished(reason="stop", usage=Usage(input_tokens=3, output_tokens=2))


def text(words: str) -> TextDelta:
    return TextDelta(text=words)
