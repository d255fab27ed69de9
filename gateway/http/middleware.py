"""What surrounds every request, in pure ASGI: its id and log line, errors as answers, counts, the limit on its body."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.paths import normal_path
from gateway.http.replies import ClientDisconnectedError, header, send_error
from gateway.http.routes import Route, find_route, served_path
from gateway.metrics import outcome_of
from shared.errors import (
    AuthenticationError,
    GatewayError,
    GuessedKeysError,
    InternalError,
    PermissionDeniedError,
    RequestTooLargeError,
)

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("gateway.access")

_MAX_DRAIN_BYTES = 512 * 1024 * 1024
_MAX_DRAIN_S = 30.0
_STRANGERS_DRAIN_S = 2.0  # of those who may not come in

_STRANGERS = (AuthenticationError, GuessedKeysError, PermissionDeniedError)

_WATCHING = ("health", "ready", "metrics", "greeting", "home", "console")
_PROBES = (*_WATCHING, "host_metrics", "targets")  # of which a line each would be all that a log holds
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # names of others are in our JSON, and must not become a page
_UNKNOWN = "unknown"  # the route of a path where there is nothing


class RequestContext:
    """Gives the request a normal path, its id and start time, every response its id headers and that its type is the
    one it says, and the log one line: at debug level for what only watches, and for what was told at its end in other
    words. With `tells_urls` another line says at once what came."""

    def __init__(self, app: ASGIApp, *, tells_urls: bool = False) -> None:
        self.app = app
        self._tells_urls = tells_urls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["path"] = served_path(normal_path(scope["path"]))
        request_id = f"req_{secrets.token_hex(12)}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["started_s"] = started_s = time.monotonic()
        id_headers = [(name, request_id.encode()) for name in (b"request-id", b"x-request-id")]
        own_headers = [*id_headers, _NO_SNIFFING]
        status = 0
        if self._tells_urls:
            query = scope.get("query_string", b"").decode("ascii", "backslashreplace")
            access_logger.info(
                "%s comes: %s %s?%s", request_id, scope["method"], _printable(scope["path"]), query[:200]
            )

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *own_headers]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            took_ms = (time.monotonic() - started_s) * 1000
            path, route = scope["path"], find_route(scope["path"])
            asked = f"{scope['method']} {_printable(path)}"
            name = "-" if route is None else route.name
            level = logging.DEBUG if _is_quiet(route, state) else logging.INFO
            access_logger.log(level, "%s %s %s %d %.1f ms", request_id, asked, name, status, took_ms)


def _is_quiet(route: Route | None, state: dict[str, Any]) -> bool:
    return (route is not None and route.work in _PROBES) or state.get("is_told", False)


def _printable(path: str) -> str:
    """The path as one bounded piece of text: it comes from outside."""
    return path[:200].encode("ascii", "backslashreplace").decode() if path.isprintable() else repr(path[:200])


class ErrorAnswers:
    """The last resort: every exception below becomes an answer in the client's shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _BodyWatch(receive)
        has_started = False

        async def send_watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, body.receive, send_watched)
            return
        except ClientDisconnectedError:
            return
        except GatewayError as raised:
            error = raised
        except Exception:  # any bug below: the client is told, in its own shape
            logger.exception("request %s: unexpected error", scope["state"]["request_id"])
            error = InternalError("internal error; the gateway's log has the details under this request id")
        if has_started:
            # Too late for a status: closing without an end tells the client that the answer is incomplete.
            raise error
        await _answer(scope, send, error, body)


async def _answer(scope: Scope, send: Send, error: GatewayError, body: _BodyWatch) -> None:
    """Send the error at once, then read what still arrives: many clients send all of their body before they look for an
    answer, and a connection that is closed meanwhile may take the answer from them."""
    waits_for_leave = header(scope, b"expect").lower() == "100-continue"
    if not waits_for_leave:
        await body.read_what_is_there()
    if body.is_complete:
        await send_error(scope, send, error)
        return
    await send_error(scope, send, error, is_last=False)
    if not waits_for_leave:
        is_stranger = "refusal" in scope["state"] or isinstance(error, _STRANGERS)
        await body.drain(_STRANGERS_DRAIN_S if is_stranger else _MAX_DRAIN_S)
    await send({"type": "http.response.body", "body": b""})


class _BodyWatch:
    """`receive` that knows whether the body was read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def read_what_is_there(self) -> None:
        """Read and drop what has arrived already."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                while not self.is_complete:
                    await self.receive()

    async def drain(self, most_s: float) -> None:
        """Read and drop what is left of the body, within bounds."""
        dropped_bytes = 0
        try:
            async with asyncio.timeout(most_s):
                while not self.is_complete and dropped_bytes < _MAX_DRAIN_BYTES:
                    dropped_bytes += len((await self.receive()).get("body", b""))
        except TimeoutError:
            logger.info("a client that sends its body slowly was cut off")


class Counted:
    """Counts every answer by route, model and outcome, but for what only watches the gateway. Whoever answers may say
    in the request's state which `model` was meant, and the `outcome` of an answer that was begun."""

    def __init__(self, app: ASGIApp, *, count: Callable[[str, str, str], None]) -> None:
        self.app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        outcome = "internal"
        try:
            await self.app(scope, receive, send)
            outcome = scope["state"].get("outcome", "ok")
        except ClientDisconnectedError:
            outcome = "cancelled"
            raise
        except GatewayError as error:
            outcome = outcome_of(error)
            raise
        finally:
            route = find_route(scope["path"])
            if route is None or route.work not in _WATCHING:
                self._count(_UNKNOWN if route is None else route.name, scope["state"].get("model", ""), outcome)


class BodyLimit:
    """Refuses bodies over the limit, by their announced length and, when that is missing or false, by counting."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = header(scope, b"content-length")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large()
        seen_bytes = 0

        async def receive_counted() -> Message:
            nonlocal seen_bytes
            message = await receive()
            seen_bytes += len(message.get("body", b""))
            if seen_bytes > self._max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_counted, send)

    def _too_large(self) -> RequestTooLargeError:
        return RequestTooLargeError(f"the request body is larger than {self._max_bytes} bytes")
