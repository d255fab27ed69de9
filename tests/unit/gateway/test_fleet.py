"""The fleet watcher and the watchdog on a real Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine

import pytest

from gateway.dispatch import fleet as fleet_module
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import job_id
from shared import keys, wire
from shared.errors import BrokerUnavailableError
from shared.events import Event, Failed
from shared.messages import Message, TextPart
from shared.redis_server import RedisServer
from shared.registry import Fleet, HostRecord, ModelRecord
from shared.request import GenerateRequest
from shared.work import Envelope, Generate
from tests.support.gateway import (
    ANYWHERE,
    FINISHED,
    PATIENCE,
    STARTED,
    Parts,
    Scenario,
    collect,
    opened,
    player,
    running_parts,
    text,
    texts,
    until,
)
from tests.support.names import NAMES
from tests.support.sealed import KEYRING, sealed_host


@pytest.fixture
def play(redis_url: str) -> Callable[[Scenario], None]:
    return player(redis_url)


def envelope(parts: Parts, request_id: str = "r1", *, patience_s: float = 60) -> Envelope:
    message = Message(role="user", parts=(TextPart(text="hi"),))
    request = GenerateRequest(id=request_id, model="m", messages=(message,))
    return Envelope(work=Generate(request=request), gateway=parts.hub.gateway_id, deadline_s=time.time() + patience_s)


async def ending(parts: Parts, *, submit: bool = True, patience_s: float = 60) -> Event:
    """How a request that nobody answers ends."""
    request = envelope(parts, patience_s=patience_s)
    with opened(parts, deadline_s=request.deadline_s) as stream:
        if submit:
            await parts.jobs.submit(request, ANYWHERE)
        return (await collect(stream, 99))[-1]


def code_of(event: Event) -> str:
    assert isinstance(event, Failed)
    return event.code


def test_workers_hosts_and_queues_come_and_go(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        await worker.renew(context_tokens=100, state="loading")
        record = HostRecord(host="h", pid=1, models=(ModelRecord(id="big", state="available"),), reader=wire.READER)
        await parts.client.set(NAMES.host("h"), sealed_host(record), ex=keys.HOST_TTL_S)
        await parts.client.sadd(NAMES.hosts, "h")
        await until(lambda: parts.fleet.snapshot.model_ids() == ("big", "m"), "both models")
        await parts.jobs.submit(envelope(parts), ANYWHERE)
        await until(lambda: parts.fleet.depths.get("m") == (1, 0, 0, 0), "the queued job")
        await worker.die()
        await until(lambda: not parts.fleet.snapshot.workers, "the worker's end")
        assert parts.fleet.snapshot.model_ids() == ("big",)

    play(scenario)


def test_a_refresh_sees_what_happened_a_moment_ago(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        for _ in range(5):
            await parts.worker().renew()
            assert (await parts.fleet.refresh()).workers
            await parts.worker().die()
            assert not (await parts.fleet.refresh()).workers

    play(scenario)


def test_an_idle_fleet_is_looked_at_each_second_and_at_once_when_somebody_begins_something(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How often by the count of reads, whatever time they take."""
    monkeypatch.setattr(fleet_module, "_QUIET_AFTER_S", 0.0)
    monkeypatch.setattr(fleet_module, "_QUIET_EVERY_S", 1000.0)

    async def scenario(parts: Parts) -> None:
        await parts.worker().renew()
        await parts.fleet.fresh()
        await until(lambda: parts.fleet._is_quiet and parts.fleet.snapshot.workers, "nothing changes")
        await parts.worker().die()
        await asyncio.sleep(3 * parts.fleet._every_s)
        assert parts.fleet.snapshot.workers, "nobody has looked"
        await parts.fleet.fresh()
        assert not parts.fleet.snapshot.workers
        await until(lambda: parts.fleet._is_quiet, "nothing is under way again")
        parts.fleet.is_busy = lambda: True
        await parts.fleet.fresh()
        await parts.worker().renew()
        await until(
            lambda: parts.fleet.snapshot.workers, "it is looked at again and again while something is under way"
        )

    play(scenario)


def test_keys_of_ours_that_hold_something_else_are_named_and_made_anew(
    play: Callable[[Scenario], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Else everybody would hear for ever that Redis cannot be reached."""

    async def scenario(parts: Parts) -> None:
        await parts.worker().renew(state="loading")
        await parts.jobs.submit(envelope(parts), ANYWHERE)
        await until(lambda: parts.fleet.depths.get("m") == (1, 0, 0, 0), "the queued job")
        wrong = (NAMES.workers, NAMES.hosts, NAMES.gateways, "rq:queues", f"rq:queue:{NAMES.queue('m', 'interactive')}")
        for key in wrong:
            await parts.client.delete(key)
            await parts.client.set(key, "x")
        assert [worker.model for worker in (await parts.fleet.refresh()).workers] == ["m"]
        await parts.jobs.submit(envelope(parts, "r2"), ANYWHERE)
        assert await parts.client.type("rq:queues") == b"set"
        for key in wrong:
            assert f"{key} held a string instead of" in caplog.text

    play(scenario)


def test_all_who_ask_at_once_see_what_was_there_when_they_asked(play: Callable[[Scenario], None]) -> None:
    """Who asks while others read, of an empty fleet or of names read before, must not be told of those."""

    async def scenario(parts: Parts) -> None:
        for _ in range(3):
            await parts.worker().renew()
            seen = await asyncio.gather(
                *(FleetWatcher(parts.client, NAMES, KEYRING).refresh(), *_asked(parts.fleet, 8))
            )
            assert [len(fleet.workers) for fleet in seen] == [1] * 9
            await parts.client.delete(NAMES.workers)
            seen = await asyncio.gather(*_asked(parts.fleet, 8))
            assert [len(fleet.workers) for fleet in seen] == [0] * 8

    async def fresh(parts: Parts) -> None:
        await parts.worker().renew()
        watcher = FleetWatcher(parts.client, NAMES, KEYRING)
        assert [len(fleet.workers) for fleet in await asyncio.gather(*_asked(watcher, 8))] == [1] * 8

    play(scenario)
    play(fresh)


def _asked(watcher: FleetWatcher, times: int) -> list[Coroutine[None, None, Fleet]]:
    return [watcher.refresh() for _ in range(times)]


class CountingWatcher(FleetWatcher):
    reads = 0

    async def _read(self) -> None:
        self.reads += 1
        await super()._read()


def test_who_waited_for_a_read_that_failed_hears_so_without_trying_again(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with running_parts(redis_server.url, with_watchdog=False) as parts:
            redis_server.process.kill()
            redis_server.process.wait()
            watcher = CountingWatcher(parts.client, NAMES, KEYRING)
            told = await asyncio.gather(*_asked(watcher, 8), return_exceptions=True)
            assert all(isinstance(each, BrokerUnavailableError) for each in told)
            assert watcher.reads == 2, "one of the first, and one of the seven who came while it read"

    asyncio.run(main())


def test_who_stops_asking_leaves_the_others_their_answer(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        await parts.worker().renew()
        watcher = FleetWatcher(parts.client, NAMES, KEYRING)
        impatient = [asyncio.create_task(watcher.refresh()) for _ in range(2)]
        patient = asyncio.create_task(watcher.refresh())
        await asyncio.sleep(0)
        for task in impatient:
            task.cancel()
        assert len((await patient).workers) == 1

    play(scenario)


def test_the_names_of_the_dead_leave(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        watcher = FleetWatcher(parts.client, NAMES, KEYRING, forget_after_s=0.0)
        await parts.client.sadd(NAMES.hosts, "dead", "h", b"\xff")
        await parts.client.sadd(NAMES.workers, "dead", "odd", b"\xff")
        await parts.client.set(NAMES.host("h"), sealed_host(HostRecord(host="h", pid=1, reader=wire.READER)))
        await parts.client.set(NAMES.lease("odd"), b"\xc1")
        await parts.worker().renew()
        for _ in range(2):
            await watcher.refresh()
        assert await parts.client.smembers(NAMES.hosts) == {b"h"}
        assert await parts.client.smembers(NAMES.workers) == {b"host.m.e1", b"odd"}, "one that is only not understood"

    play(scenario)


def test_records_that_do_not_decode_are_left_out(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        await parts.client.sadd(NAMES.workers, "odd", "other", b"\xff")
        await parts.client.sadd(NAMES.hosts, b"\xff")
        await parts.client.set(NAMES.lease("odd"), b"\xc1")
        await parts.client.set(NAMES.lease("other"), wire.encode(HostRecord(host="h", pid=1)))
        await parts.worker().renew()
        assert [worker.worker for worker in (await parts.fleet.refresh()).workers] == ["host.m.e1"]

    play(scenario)


def test_the_watcher_knows_whether_redis_is_there(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with running_parts(redis_server.url) as parts:
            await parts.worker().renew()
            await parts.fleet.refresh()
            redis_server.process.kill()
            redis_server.process.wait()
            await until(lambda: not parts.fleet.is_connected, "the loss is noticed")
            with pytest.raises(BrokerUnavailableError):
                await parts.fleet.refresh()
            assert parts.fleet.away_s > 0
            assert parts.fleet.snapshot.workers, "the last snapshot stays"
            await asyncio.to_thread(redis_server.restart)
            await until(lambda: parts.fleet.is_connected and not parts.fleet.snapshot.workers, "its return, empty")

    asyncio.run(main())


def test_a_worker_whose_lease_ended_fails_what_it_held(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        await worker.renew()
        with opened(parts) as stream:
            await worker.say("r1", STARTED, text("half an"))
            await worker.die()
            events = await collect(stream, 99)
            assert texts(events) == "half an"
            assert code_of(events[-1]) == "worker_lost"

    play(scenario)


def test_a_worker_that_lives_and_is_heard_may_take_its_time(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts, deadline_s=time.time() + 1) as stream:
            await worker.say("r1", STARTED)
            async with worker.living():
                quiet_until_s = time.monotonic() + 3 * PATIENCE.silence_s
                await until(lambda: stream.has_ended or time.monotonic() > quiet_until_s, "a long silence")
                await worker.say("r1", FINISHED)
                assert (await collect(stream, 99))[-1] == FINISHED

    play(scenario)


def test_a_subscription_that_hears_nothing_is_replaced_and_repaired(play: Callable[[Scenario], None]) -> None:
    """As with a half-open connection: the worker lives and speaks, and nothing arrives."""

    async def scenario(parts: Parts) -> None:
        worker = parts.worker()
        with opened(parts) as stream:
            await worker.say("r1", STARTED)
            await collect(stream, 1)
            await worker.log(worker.frame(worker.entry("r1", text("unheard"), FINISHED)))
            async with worker.living(is_heard=False):
                assert texts(await collect(stream, 99)) == "unheard"

    play(scenario)


def test_a_request_that_redis_lost_before_anybody_took_it_is_told_so(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        await parts.worker().renew()
        assert code_of(await ending(parts, submit=False)) == "broker_unavailable"

    play(scenario)


def test_a_request_ends_with_its_deadline_while_it_is_queued(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        assert code_of(await ending(parts, patience_s=1)) == "deadline_exceeded"

    play(scenario)


def test_a_job_whose_end_never_came_is_found_by_its_record(play: Callable[[Scenario], None]) -> None:
    async def scenario(parts: Parts) -> None:
        request = envelope(parts)
        with opened(parts, deadline_s=request.deadline_s) as stream:
            await parts.jobs.submit(request, ANYWHERE)
            await parts.client.hset(f"rq:job:{job_id('r1', 1)}", "status", "finished")
            assert code_of((await collect(stream, 99))[-1]) == "worker_lost"

    play(scenario)


def test_a_redis_that_hangs_does_not_hold_up_the_looks_to_come(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with running_parts(redis_server.url, with_watchdog=False) as parts:
            worker = parts.worker()
            with opened(parts) as stream:
                await worker.say("r1", STARTED)
                await until(
                    lambda: time.monotonic() - stream.attempt.heard_s > PATIENCE.silence_s, "a silence to be looked at"
                )
                os.kill(redis_server.process.pid, signal.SIGSTOP)
                began_s = time.monotonic()
                with pytest.raises((BrokerUnavailableError, TimeoutError)):
                    await parts.watchdog.tick()
                assert time.monotonic() - began_s < 15
                os.kill(redis_server.process.pid, signal.SIGCONT)

    asyncio.run(main())


def test_without_redis_for_long_every_wait_ends(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with running_parts(redis_server.url) as parts:
            with opened(parts) as stream:
                redis_server.process.kill()
                redis_server.process.wait()
                assert code_of((await collect(stream, 99))[-1]) == "broker_unavailable"

    asyncio.run(main())
