"""`GET /api/events?topics=a,b`: server-sent events of the topics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import QueryParams
from starlette.types import Receive, Send

from gateway.admin.feeds import Feeds, encode_event
from gateway.dispatch.tasks import cancel_all
from gateway.keys.holder import Holder
from shared.errors import InvalidRequestError, PermissionDeniedError

BEAT_S: Final = 5.0  # consoles believe that nobody is there after twice as long
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


async def send_events(feeds: Feeds, names: Sequence[str], receive: Receive, send: Send) -> None:
    """Until the console leaves, falls far behind, or the process stops."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    leaving = asyncio.get_running_loop().create_task(_until_left(receive))
    try:
        with feeds.listening(names) as listener:
            leaving.add_done_callback(lambda _: listener.lose())
            while not listener.is_lost:
                news = await listener.take(BEAT_S)
                if not listener.is_lost:
                    await send({"type": "http.response.body", "body": news or _BEAT, "more_body": True})
    finally:
        await cancel_all([leaving])
    await send({"type": "http.response.body", "body": b""})


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
