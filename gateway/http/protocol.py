"""HTTP/1.1 as uvicorn reads it, within bounds: how much may stand before a body, and how long that may take.

uvicorn's parser keeps whatever comes before the end of the headers, so that who has no key could fill the memory with
it, or hold connections for ever. What is refused here becomes an ordinary request that is known to be refused, so that
its client is answered in its own shape, and log and metrics know of it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import GatewayError, HeadTooLargeError, InvalidRequestError, SlowHeadError

MAX_HEAD_BYTES = 64 * 1024  # first line and headers; what browsers and clients send is a tenth of it at most
MAX_FIELDS = 256
HEAD_S = 30.0  # from the first byte of a head to its end
IDLE_S = 75.0  # until the first byte
_MAX_PATH_BYTES = 1000  # of a refused request
_SEPARATORS_BYTES = 4  # of a header: ": " and the line's end


class BoundedHttp(HttpToolsProtocol):
    """One connection. It says of what it refuses in the state of its scope, and reads nothing from there on."""

    _place: Literal["between", "head", "body"] = "between"
    _problem: GatewayError | None = None  # why a callback stopped the parser
    _has_refused = False
    _head_bytes = 0
    _fields = 0
    _unread_bytes = 0  # that came since the parser last told anything: parts of a line without end
    _has_told = False
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_clock(IDLE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._has_refused:
            return
        self._has_told = False
        super().data_received(data)
        self._unread_bytes = 0 if self._has_told else self._unread_bytes + len(data)
        if self._unread_bytes > MAX_HEAD_BYTES and not self._has_refused:
            self._refuse(_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._place, self._has_told = "head", True
        self._head_bytes = self._fields = 0
        self._start_clock(HEAD_S)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of a request's head, or of a trailer behind its body."""
        self._fields += 1
        self._count(len(name) + len(value) + _SEPARATORS_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_clock()
        super().on_headers_complete()
        self._place, self._has_told = "body", True

    def on_body(self, body: bytes) -> None:
        self._has_told = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._place, self._has_told = "between", True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer where the parser stopped."""
        problem = self._problem or InvalidRequestError("what came is no HTTP/1.1 request that can be read")
        self._refuse(problem)

    def _count(self, more_bytes: int) -> None:
        """Raises through the parser, which stops there."""
        self._has_told = True
        self._head_bytes += more_bytes
        if self._head_bytes > MAX_HEAD_BYTES or self._fields > MAX_FIELDS:
            self._problem = _too_large()
            raise self._problem

    def _refuse(self, error: GatewayError) -> None:
        """Where a body is under way its request has an answer of its own, and loses its connection."""
        self._has_refused = True
        self._stop_clock()
        if self._place == "body":
            self.transport.close()
            return
        if self._place == "between":
            super().on_message_begin()
        has_url = bool(self.url)
        self.url = _plain_path(self.url)
        state: dict[str, Any] = self.scope["state"]
        state["refusal"] = error
        super().on_headers_complete()
        if not has_url:  # the parser's word for a method that it has not read means another
            self.scope["method"] = "GET"
        self.cycle.keep_alive = False

    def _start_clock(self, most_s: float) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(most_s, self._end_of_patience)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _end_of_patience(self) -> None:
        if self._place == "head":
            self._refuse(SlowHeadError(f"the request's headers took more than {HEAD_S:.0f} s"))
        else:
            self.transport.close()


class Refusals:
    """ASGI middleware. Raises what the protocol found wrong with a request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = scope.get("state", {}).get("refusal")
        if isinstance(refusal, GatewayError):
            raise refusal
        await self.app(scope, receive, send)


def _too_large() -> HeadTooLargeError:
    return HeadTooLargeError(
        f"the request's first line and headers have more than {MAX_HEAD_BYTES} bytes or {MAX_FIELDS} fields"
    )


def _plain_path(url: bytes) -> bytes:
    """What of a URL tells the dialect, in a form that every parser takes."""
    path = url.partition(b"?")[0][:_MAX_PATH_BYTES]
    is_plain = path.startswith(b"/") and all(0x21 <= byte < 0x7F for byte in path)
    return path if is_plain else b"/"
