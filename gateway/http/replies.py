"""HTTP answers: JSON and errors, in the shape of the dialect that a path belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from gateway.dialects.base import Dialect
from gateway.dialects.registry import DIALECTS, OPENAI_CHAT
from gateway.http.routes import spoken_at
from gateway.intake.reader import Body
from gateway.intake.values import MAX_VALUES, ValueCount
from shared.errors import AuthenticationError, GatewayError, RequestTooLargeError, UpgradeRefusedError
from shared.exact import dump_bytes

JSON = b"application/json"


class ClientDisconnectedError(Exception):
    """The client left before its request was complete: there is nobody to answer."""


def header(scope: Scope, name: bytes) -> str:
    """A request header by its lower-case name, empty when it is missing."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    """All request headers of a lower-case name, as they came."""
    return [value for key, value in scope["headers"] if key == name]


def wants_page(scope: Scope) -> bool:
    """As browsers ask for what they show; programs say `*/*`, or JSON."""
    return "text/html" in header(scope, b"accept").lower()


def dialect_of(scope: Scope) -> Dialect:
    """By the path; where both vendors use the same path, by the client's headers."""
    spoken = spoken_at(scope["path"])
    if spoken:
        return DIALECTS[spoken]
    headers = headers_of(scope)
    return next((dialect for dialect in DIALECTS.values() if dialect.recognises(headers)), OPENAI_CHAT)


def headers_of(scope: Scope) -> dict[str, str]:
    """The request's headers by their lower-case names."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def send_reply(
    send: Send,
    status: int,
    body: bytes,
    *,
    media_type: bytes = JSON,
    headers: Mapping[str, str] | None = None,
    is_last: bool = True,
) -> None:
    extra = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", media_type),
                (b"content-length", str(len(body)).encode()),
                *extra,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})


async def send_json(send: Send, status: int, value: Any, *, headers: Mapping[str, str] | None = None) -> None:
    await send_reply(send, status, dump_bytes(value), headers=headers)


async def send_error(scope: Scope, send: Send, error: GatewayError, *, is_last: bool = True) -> None:
    """Unless it is the last that is sent, the client gets all of the answer, and the connection ends with the empty
    piece that must follow."""
    rendered = dialect_of(scope).render_error(error, request_id=request_id_of(scope))
    headers = dict(rendered.headers)
    if error.details.get("allow"):
        headers["allow"] = str(error.details["allow"])
    if isinstance(error, UpgradeRefusedError):
        headers["upgrade"] = "HTTP/1.1"  # RFC 9110, section 15.5.22
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = 'Bearer realm="mlx-gateway"'
    if not is_last:
        headers["connection"] = "close"
    await send_reply(send, rendered.status, dump_bytes(rendered.body), headers=headers, is_last=is_last)


def request_id_of(scope: Scope) -> str:
    return str(scope["state"]["request_id"])


async def read_raw(receive: Receive, *, most_bytes: int = 0) -> bytes:
    """The whole body, whatever it holds; not more of it than `most_bytes`, where those are said, is kept. Raises
    `ClientDisconnectedError`, and `RequestTooLargeError`."""
    chunks: list[bytes] = []
    seen_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        chunks.append(message.get("body", b""))
        seen_bytes += len(chunks[-1])
        if 0 < most_bytes < seen_bytes:
            raise RequestTooLargeError(f"the body is larger than {most_bytes} bytes")
        if not message.get("more_body", False):
            return b"".join(chunks)


async def read_body(receive: Receive, *, most_values: int = MAX_VALUES) -> Body:
    """The whole body. Raises `ClientDisconnectedError`, and `RequestTooLargeError` for too many values."""
    chunks: list[bytes] = []
    values = ValueCount(most_values)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        chunk = message.get("body", b"")
        values.feed(chunk)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return Body(chunks=chunks, values=values.count, is_exact=values.is_exact)
