"""Answers of another server of this API: passed on as they came. Who does not relay them (a worker that cannot, or a
fallback's model) is rendered as any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.dialects.anthropic.errors import render_envelope
from gateway.dialects.anthropic.render import PING
from gateway.dialects.base import RenderContext, Reply, StreamRenderer
from gateway.dialects.sse import encode_event
from shared.events import Completion, Event, Failed, Finished, Progress, Relayed, Started


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedReply:
    """`ours` is how it is rendered where it is not relayed."""

    ours: Reply

    def stream(self, context: RenderContext) -> RelayedStream:
        return RelayedStream(self.ours.stream(context), context)

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        (completion,) = completions
        if completion.relayed:
            return orjson.Fragment(completion.relayed)  # type: ignore[return-value]  # to the last byte
        return self.ours.render(completions, context)


class RelayedStream:
    """Says nothing of its own but pings, until it is certain who speaks."""

    def __init__(self, ours: StreamRenderer, context: RenderContext) -> None:
        self._ours = ours
        self._context = context
        self._started: Started | None = None
        self._is_relayed: bool | None = None

    def start(self) -> bytes:
        return self._ours.start() if self._is_relayed is False else b""

    def keepalive(self, silent_s: float) -> bytes:
        return self._ours.keepalive(silent_s) if self._is_relayed is False else PING

    def feed(self, event: Event, choice: int = 0) -> bytes:
        match event:
            case Relayed(data=data):
                self._is_relayed = True
                return data
            case Failed() if not self._is_relayed:
                return self._ours.feed(event, choice)
            case Failed():
                return b"" if event.details.get("is_told") else self._failed(event)
            case Finished() if self._is_relayed:
                return b""
            case Progress() | Started() if self._is_relayed is None:
                self._started = event if isinstance(event, Started) else None
                return b""
        return b"" if self._is_relayed else self._rendered(event, choice)

    def _failed(self, event: Failed) -> bytes:
        return encode_event("error", render_envelope(event.error(), self._context.request_id))

    def _rendered(self, event: Event, choice: int) -> bytes:
        self._is_relayed = False
        started, self._started = self._started, None
        opening = b"" if started is None else self._ours.feed(started, choice)
        return opening + self._ours.feed(event, choice)
