"""Bodies that are passed on as they came: which requests they go with, and what of their headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from starlette.types import Scope

from gateway.dialects.anthropic.relayed import RelayedReply
from gateway.dialects.anthropic.schema import HEADER_AGENT, HEADER_SESSION
from gateway.dialects.base import Parsed, Reply
from gateway.http.replies import headers_of
from gateway.intake.reader import Body
from shared.events import Event, Relayed
from shared.registry import Fleet
from shared.request import GenerateRequest

OPENS_WITHIN_S: Final = 60.0  # a server elsewhere says in its head what it refuses, and that is told as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """Of a dialect: the headers that go with its bodies, and how what comes back is told."""

    headers: Sequence[str]
    reply: Callable[[Reply], Reply]


_WAYS: Final[Mapping[str, _Way]] = {
    "anthropic": _Way(
        headers=("anthropic-version", "anthropic-beta", HEADER_SESSION, HEADER_AGENT),
        reply=lambda ours: RelayedReply(ours=ours),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Original:
    """A body of a dialect, as it came."""

    dialect: str
    body: Body
    headers: Mapping[str, str]


def remember(scope: Scope, dialect: str, body: Body, fleet: Fleet) -> None:
    """The body of a request, where anybody passes on bodies of its dialect."""
    if dialect in _WAYS and any(worker.relays == dialect for worker in fleet.workers):
        scope["state"]["original"] = _Original(dialect=dialect, body=body, headers=headers_of(scope))


def with_original(scope: Scope, request: GenerateRequest, fleet: Fleet) -> GenerateRequest:
    """With the body as it came, where a worker of the request's model passes it on."""
    original: _Original | None = scope["state"].get("original")
    if original is None or all(w.relays != original.dialect for w in fleet.ready_workers(request.model)):
        return request
    names = _WAYS[original.dialect].headers
    passed = {name: original.headers[name] for name in names if name in original.headers}
    return replace(request, original=original.body.joined(), original_headers=passed)


def answered(scope: Scope, parsed: Parsed) -> Parsed:
    """Whose body is passed on: what comes back is told as it comes, and nothing of the request is left out."""
    return replace(parsed, reply=_WAYS[scope["state"]["original"].dialect].reply(parsed.reply), warnings=())


def headers_among(events: Sequence[Event]) -> dict[str, str]:
    """Those that came with the answer."""
    return {name: text for event in events if isinstance(event, Relayed) for name, text in event.headers.items()}
