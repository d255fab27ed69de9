"""How many requests a server runs side by side, where neither a person nor the server says it: tried once.

What decides is the order in which the parts of answers come, not how long they take: a server that does one after the
other ends an answer before it goes on with the next, on however busy a machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from typing import Final
from urllib.parse import urlsplit

from shared.errors import GatewayError
from shared.http_client import AskError
from shared.messages import Message, TextPart
from shared.remotes import Remote
from shared.request import GenerateRequest, SamplingParams

log = logging.getLogger(__name__)

_AT_ONCE: Final = (4, 8)  # streams: more are tried where all of these ran side by side
_LEAST_PARTS: Final = 4  # of an answer, to tell its middle
_LIMIT_S: Final = 60.0
_TOKENS: Final = 24
_TRIES: Final = 3
_IDLE_S: Final = 3.0  # for how long nobody has asked the server when it is tried
_LOOK_S: Final = 0.5
_ASKED: Final = "Count from 1 to 100, one number after the other."

Stream = Callable[[GenerateRequest], AsyncIterator[object]]


class SlotProbe:
    """Belongs to one event loop; `slots`, 0 until they are known, may be read by any thread. `name` is that of the log.
    `is_idle` says that the server is there and nobody of ours asks it, `is_told` that it has told its slots itself."""

    def __init__(self, name: str, stream: Stream, *, is_idle: Callable[[], bool], is_told: Callable[[], bool]) -> None:
        self.slots = 0
        self._name = name
        self._stream = stream
        self._is_idle = is_idle
        self._is_told = is_told
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="slots")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        for _ in range(_TRIES):
            await self._idle()
            if self._is_told():
                return
            try:
                slots = await probe(self._stream)
            except (GatewayError, AskError, TimeoutError, ExceptionGroup) as error:
                log.info("%s: how many requests it runs side by side cannot be tried: %s", self._name, error)
                continue
            if self._is_idle():  # else somebody's request may have taken a slot
                self.slots = slots
                log.info("%s runs %d requests side by side", self._name, slots)
                return

    async def _idle(self) -> None:
        idle_s = 0.0
        while idle_s < _IDLE_S:
            await asyncio.sleep(_LOOK_S)
            idle_s = idle_s + _LOOK_S if self._is_idle() else 0.0


def may_probe(remote: Remote, *, has_key: bool) -> bool:
    """Nobody's money is spent unasked: only servers of this machine or this network, which want no key, are tried by
    themselves."""
    if remote.slots:
        return False
    return remote.probe if remote.probe is not None else not has_key and _is_near(remote.url)


def _is_near(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".local")
    return address.is_private or address.is_loopback or address.is_link_local


async def probe(stream: Stream) -> int:
    """The slots of who answers; 1 where it cannot be told. Raises what `stream` raises, and `TimeoutError`."""
    slots = 1
    async with asyncio.timeout(_LIMIT_S):
        for at_once in _AT_ONCE:
            slots = await _side_by_side(stream, at_once)
            if slots < at_once:
                break
    return slots


async def _side_by_side(stream: Stream, at_once: int) -> int:
    order = count()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_places(stream(_request(n)), order)) for n in range(at_once)]
    return most_at_once([task.result() for task in tasks])


async def _places(parts: AsyncIterator[object], order: count[int]) -> list[int]:
    """Of each part of one answer, in the order of all."""
    return [next(order) async for _ in parts]


def most_at_once(places: Sequence[Sequence[int]]) -> int:
    """The most answers whose middles lie over one another, 1 at least. Their ends may: two that follow one another may
    be read together."""
    middles = [(each[len(each) // 4], each[3 * len(each) // 4]) for each in places if len(each) >= _LEAST_PARTS]
    return max((sum(a <= start <= b for a, b in middles) for start, _ in middles), default=1)


def _request(number: int) -> GenerateRequest:
    return GenerateRequest(
        id=f"probe-{number}",
        model="",
        messages=(Message(role="user", parts=(TextPart(text=_ASKED),)),),
        sampling=SamplingParams(max_tokens=_TOKENS, temperature=0.0),
    )
