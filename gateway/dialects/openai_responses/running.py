"""Responses that run while nobody waits for them: who asks for one, how it is shown, and its events by their numbers.
Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.dialects.openai_responses.keeping import read_object
from gateway.dialects.openai_responses.render import render_failure
from gateway.dialects.sse import encode_event
from shared.errors import GatewayError, InvalidRequestError
from shared.exact import dump_bytes, load_bytes

UNFINISHED: Final = ("queued", "in_progress")
_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")
_ITEM: Final = b"event: response.output_item.done\n"
_NUMBER: Final = re.compile(rb'"sequence_number":(\d+)')
_DIGITS: Final = 9


def asks_for_it(body: bytes) -> dict[str, Any] | None:
    """The body, read, of a request that is to run in the background. Raises `InvalidRequestError`."""
    if b'"background"' not in body:
        return None
    read = read_object(body)
    if read.get("background") is not True:
        return None
    if read.get("store") is False:
        raise InvalidRequestError("store: what runs in the background is stored", param="store")
    return read


def body_of(read: Mapping[str, Any]) -> bytes:
    """As it is run: its events are wanted, whatever its client wants of them."""
    return dump_bytes({**read, "stream": True})


def is_unfinished(answer: Mapping[str, Any]) -> bool:
    return answer.get("status") in UNFINISHED


def ended_by(answer: Mapping[str, Any], error: GatewayError) -> dict[str, Any]:
    return {**answer, "status": "failed", "error": render_failure(error)}


def last_event(answer: Mapping[str, Any], number: int) -> bytes:
    """Of an answer that has ended, for who has not heard so; nothing of one that was cancelled."""
    kind = f"response.{answer.get('status')}"
    if kind not in _ENDS:
        return b""
    return encode_event(kind, {"type": kind, "sequence_number": number, "response": answer})


def starting_after(query: Mapping[str, str]) -> int:
    """The number behind which its client wants to go on, -1 for all. Raises `InvalidRequestError`."""
    text = query.get("starting_after", "")
    if text and not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise InvalidRequestError("starting_after: Input should be a sequence number", param="starting_after")
    return int(text) if text else -1


def behind(events: bytes, number: int) -> Iterator[tuple[int, bytes]]:
    """(number, event) of those with a higher number."""
    for event in events.split(b"\n\n"):
        found = _NUMBER.search(event)
        if found is not None and int(found[1]) > number:
            yield int(found[1]), event + b"\n\n"


class Heard:
    """What a stream has said so far, fed piece by piece: whole events, items that are done, and the answer at its
    end."""

    def __init__(self) -> None:
        self._rest = b""
        self.items: list[Any] = []
        self.answer: dict[str, Any] | None = None
        self.number = -1

    def feed(self, data: bytes) -> bytes:
        """The events that are whole now."""
        whole, ends, self._rest = (self._rest + data).rpartition(b"\n\n")
        for event in whole.split(b"\n\n") if ends else ():
            self._note(event)
        return whole + ends

    def _note(self, event: bytes) -> None:
        if found := _NUMBER.search(event):
            self.number = int(found[1])
        if event.startswith(_ITEM):
            self.items.append(_data(event)["item"])
        elif event.startswith(tuple(f"event: {kind}\n".encode() for kind in _ENDS)):
            self.answer = _data(event)["response"]


def _data(event: bytes) -> dict[str, Any]:
    value: dict[str, Any] = load_bytes(event.partition(b"\ndata: ")[2])
    return value
