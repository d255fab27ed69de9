"""`GET /api/events?topics=a,b`: server-sent events of the topics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from starlette.datastructures import QueryParams
from starlette.types import Receive, Send

from gateway.admin.feeds import Feeds, Listener, encode_event
from gateway.dispatch.tasks import cancel_all
from gateway.keys.holder import Holder
from shared.errors import GatewayError, InvalidRequestError, PermissionDeniedError

logger = logging.getLogger(__name__)

BEAT_S: Final = 5.0  # consoles believe that nobody is there after twice as long
ASK_S: Final = 0.5  # until who listens is asked again, at the latest
_BEAT: Final = encode_event("beat", {})
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def asked_topics(feeds: Feeds, holder: Holder, query: QueryParams) -> Sequence[str]:
    """Raises `InvalidRequestError`, and `PermissionDeniedError` for what is an administrator's."""
    names = tuple(dict.fromkeys(filter(None, query.get("topics", "").split(","))))
    unknown = [name for name in names if name not in feeds.topics]
    if unknown or not names:
        raise InvalidRequestError(f"`topics` are some of {', '.join(feeds.topics)}", param="topics")
    private = [name for name in names if feeds.topics[name].is_private]
    if private and holder.role != "admin":
        raise PermissionDeniedError(f"the topic {private[0]} is for administrators' keys")
    return names


async def send_events(
    feeds: Feeds, names: Sequence[str], whose: str, check: Callable[[], object], receive: Receive, send: Send
) -> None:
    """Until the console leaves, falls far behind, the process stops, or `check` raises because the key that it came by,
    `whose`, may not listen any more: who asks again is told why. Raises `RateLimitedError` for one console too many."""
    with feeds.listening(names, whose=whose) as listener:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        leaving = asyncio.get_running_loop().create_task(_until_left(receive))
        leaving.add_done_callback(lambda _: listener.lose())
        try:
            async for news in _told(listener, check):
                await send({"type": "http.response.body", "body": news, "more_body": True})
        finally:
            await cancel_all([leaving])
    await send({"type": "http.response.body", "body": b""})


async def _told(listener: Listener, check: Callable[[], object]) -> AsyncIterator[bytes]:
    """News as they come, and a beat where there are none for a while."""
    silent_s = 0.0
    while True:
        news = await listener.take(ASK_S)
        if listener.is_lost or not _may(check):
            return
        silent_s = 0.0 if news else silent_s + ASK_S
        if news or silent_s >= BEAT_S:
            silent_s = 0.0
            yield news or _BEAT


def _may(check: Callable[[], object]) -> bool:
    try:
        check()
    except GatewayError as error:
        logger.info("console: a stream of events ends: %s", error)
        return False
    return True


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
