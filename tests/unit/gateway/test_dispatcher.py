"""Decisions on what is true now, where what was read a moment ago says something else."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.dispatch.jobs import Placement
from gateway.dispatch.place import Placed
from gateway.parts import Parts
from shared import wire
from shared.config import Settings
from shared.errors import ModelUnavailableError, OverloadedError, WorkerLostError
from shared.events import Returned
from shared.messages import ImagePart, Message, TextPart
from shared.registry import HostRecord, ModelRecord, Reader, WorkerLease
from shared.request import GenerateRequest
from shared.wire import FrameEntry
from shared.work import Envelope, Generate
from tests.support.fleet import lease
from tests.support.gateway import ANYWHERE
from tests.support.names import NAMES
from tests.support.sealed import SECRET, host_seal, sealed_lease


@pytest.fixture
def play(redis_url: str, tmp_path: Path) -> Callable[[Callable[[Parts], Awaitable[None]]], None]:
    """Runs one coroutine with the parts of a gateway with room for two in each queue."""

    def run(scenario: Callable[[Parts], Awaitable[None]]) -> None:
        async def main() -> None:
            app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path, secret=SECRET, max_queue=2))
            async with app.router.lifespan_context(app):
                await scenario(app.parts)

        asyncio.run(main())

    return run


def queued(number: int) -> Envelope:
    message = Message(role="user", parts=(TextPart(text="hi"),))
    request = GenerateRequest(id=f"r{number}", model="m", messages=(message,))
    return Envelope(work=Generate(request=request), gateway="gw", attempt=1, deadline_s=time.time() + 60)


def test_work_goes_to_a_worker_that_can_read_it(play: Callable[[Callable[[Parts], Awaitable[None]]], None]) -> None:
    """Also where it would begin sooner on one that cannot."""
    old = Reader(versions=(wire.WIRE_VERSION,), codes=tuple(wire.CODES - {wire.code_of(ImagePart)}))
    image = ImagePart(data="iVBO", media_type="image/png")

    def asked(*parts: TextPart | ImagePart) -> GenerateRequest:
        return GenerateRequest(id="r1", model="m", messages=(Message(role="user", parts=parts),))

    async def scenario(parts: Parts) -> None:
        async def come(worker: WorkerLease) -> None:
            await parts.jobs._redis.set(NAMES.lease(worker.worker), sealed_lease(worker))
            await parts.jobs._redis.sadd(NAMES.workers, worker.worker)
            await parts.fleet.refresh()

        async def placed(request: GenerateRequest) -> str:
            dispatch = await parts.dispatcher.admit(request, is_repeated=False)
            return dispatch.attempt.place.worker

        await come(lease("m", worker="a.m.e1", reader=old))
        assert await placed(asked(TextPart(text="hi"))) == "a.m.e1"
        with pytest.raises(ModelUnavailableError, match=r"a\.m\.e1 cannot read ImagePart"):
            await placed(asked(image))
        await come(lease("m", worker="b.m.e1", held=(3, 0, 0, 0)))
        assert await placed(asked(TextPart(text="hi"))) == "a.m.e1"
        assert await placed(asked(image)) == "b.m.e1"

    play(scenario)


def test_requests_that_come_at_once_are_spread_before_any_of_them_is_in_redis(
    play: Callable[[Callable[[Parts], Awaitable[None]]], None],
) -> None:
    """Each is placed while those before it are still on their way there."""

    async def scenario(parts: Parts) -> None:
        for name in ("a.m.e1", "b.m.e1"):
            await parts.jobs._redis.set(NAMES.lease(name), sealed_lease(lease("m", worker=name)))
            await parts.jobs._redis.sadd(NAMES.workers, name)
        await parts.fleet.refresh()

        async def begin(number: int, leaving: AsyncExitStack) -> str:
            dispatch = await parts.dispatcher.admit(queued(number).request, is_repeated=False)
            await leaving.enter_async_context(parts.dispatcher.joined(dispatch))
            return dispatch.attempt.place.worker

        async with AsyncExitStack() as leaving:
            found = Counter(await asyncio.gather(*(begin(number, leaving) for number in range(4))))
        assert found == {"a.m.e1": 2, "b.m.e1": 2}

    play(scenario)


def test_a_queue_that_was_just_left_has_room(play: Callable[[Callable[[Parts], Awaitable[None]]], None]) -> None:
    """Its depth was read before they left, and their jobs may not be out of Redis yet."""

    async def scenario(parts: Parts) -> None:
        record = HostRecord(host="h", pid=1, models=(ModelRecord(id="m", state="ready"),), reader=wire.READER)
        await parts.jobs._redis.set(NAMES.host("h"), host_seal("h").close(wire.encode(record)))
        await parts.jobs._redis.sadd(NAMES.hosts, "h")
        await parts.fleet.refresh()
        for _ in range(3):
            for number in range(2):
                await parts.jobs.submit(queued(number), ANYWHERE)
            await parts.fleet.refresh()
            with pytest.raises(OverloadedError, match="2 requests are already waiting"):
                await parts.dispatcher.admit(queued(9).request, is_repeated=False)
            for number in range(2):
                work = Placement(request_id=f"r{number}", attempt=1, model="m", place=ANYWHERE)
                parts.jobs.cancel_soon(work, "the client left")
            await parts.dispatcher.admit(queued(9).request, is_repeated=False)

    play(scenario)


def test_hosts_are_asked_again_for_a_model_for_which_requests_wait_but_not_all_the_time(
    play: Callable[[Callable[[Parts], Awaitable[None]]], None],
) -> None:
    """It may have been unloaded since, or the host was not listening just then."""

    async def scenario(parts: Parts) -> None:
        asked: list[str] = []

        async def note(model: str, _hosts: Sequence[str] = ()) -> None:
            asked.append(model)

        parts.jobs.request_load = note  # type: ignore[method-assign]
        message = Message(role="user", parts=(TextPart(text="hi"),))
        request = GenerateRequest(id="r1", model="m", messages=(message,))
        async with AsyncExitStack() as stack:
            dispatch = await parts.dispatcher.admit(request, is_repeated=False)
            await stack.enter_async_context(parts.dispatcher.joined(dispatch))
            asked.clear()
            now_s = time.monotonic() + 60
            for later_s in (0.0, 0.5, 1.0, 1.5):
                await parts.dispatcher.wake_again(now_s + later_s)
            assert asked == ["m", "m"]
            leaving = lease("m", worker="a.m.e1", state="draining")
            for worker, count in ((leaving, 3), (replace(leaving, state="loading"), 3)):
                parts.fleet.snapshot = replace(parts.fleet.snapshot, workers=(worker,))
                now_s += 60
                await parts.dispatcher.wake_again(now_s)
                assert len(asked) == count

    play(scenario)


def test_an_attempt_that_arrives_after_its_client_has_left_is_taken_back(
    play: Callable[[Callable[[Parts], Awaitable[None]]], None],
) -> None:
    """Its cancellation was there first and found nothing."""

    async def scenario(parts: Parts) -> None:
        record = HostRecord(host="h", pid=1, models=(ModelRecord(id="m", state="ready"),), reader=wire.READER)
        await parts.jobs._redis.set(NAMES.host("h"), host_seal("h").close(wire.encode(record)))
        await parts.jobs._redis.sadd(NAMES.hosts, "h")
        await parts.fleet.refresh()
        arrived, submit = asyncio.Event(), parts.jobs.submit

        async def slow(envelope: Envelope, place: Placed) -> int:
            if envelope.attempt == 2:
                await arrived.wait()
            return await submit(envelope, place)

        parts.jobs.submit = slow  # type: ignore[method-assign]
        dispatch = await parts.dispatcher.admit(queued(1).request, is_repeated=False)
        leaving = Returned.of("leaving", WorkerLostError("the worker is stopping"))
        async with parts.dispatcher.joined(dispatch) as reader:
            dispatch.take(FrameEntry("r1", 1, 0, (), (leaving,)), "h.m.e1", "e1")
            assert dispatch.attempt.number == 2
            await asyncio.sleep(0.01)  # it is on its way
            reader.abandon()
        await parts.jobs.settle(2)
        arrived.set()
        await asyncio.gather(*parts.dispatcher._sending)
        await parts.jobs.settle(5)
        assert await parts.jobs._redis.hget("rq:job:r1-2", "status") == b"canceled"
        queue = f"rq:queue:{NAMES.queue('m', 'interactive')}"
        assert b"r1-2" not in await parts.jobs._redis.lrange(queue, 0, -1)

    play(scenario)
