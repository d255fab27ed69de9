"""Golden transcripts: `transcripts/<dialect>/<case>/` holds events and the exact bytes and answer they become.

A case is `case.json` (events, and how the answer is wanted), `stream.sse` and, when the answer finished, `answer.json`.
After a wanted change, look at the difference that `MLX_GATEWAY_TEST_WRITE=1 pytest <this file>` makes, then keep it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.dialects.base import RenderContext
from gateway.dialects.registry import DIALECTS
from shared import events as event_module
from shared.events import Event, EventOrder, Failed, Started, Usage, assemble
from tests.unit.gateway.dialects.answers import REPLIES

FOLDER = Path(__file__).parent.parent / "transcripts"
CASES = sorted(path.parent.relative_to(FOLDER) for path in FOLDER.glob("*/*/case.json"))
WRITE = bool(os.environ.get("MLX_GATEWAY_TEST_WRITE"))


def load_event(row: list[Any]) -> Event:
    """`["TextDelta", {"text": "hi"}]`; usage is an object of its own."""
    name, values = row
    if "usage" in values:
        values = values | {"usage": Usage(**values["usage"])}
    event: Event = getattr(event_module, name)(**values)
    return event


def check(path: Path, actual: bytes) -> None:
    if WRITE:
        path.write_bytes(actual)
    assert actual.decode() == path.read_text()


def test_every_dialect_has_transcripts() -> None:
    assert {case.parts[0] for case in CASES} == set(DIALECTS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_events_become_exactly_these_bytes(case: Path) -> None:
    """`keepalive` rows are calls of `keepalive(silent_s)`, `start` rows calls of `start()`."""
    folder = FOLDER / case
    description = orjson.loads((folder / "case.json").read_bytes())
    reply = REPLIES[case.parts[0]](**description.get("options", {}))
    using = RenderContext(request_id="0123abcd", model="demo", created_s=1_700_000_000)
    renderer = reply.stream(using)
    stream, happened = [], []
    for row in description["events"]:
        match row:
            case ["start"]:
                stream.append(renderer.start())
            case ["keepalive", silent_s]:
                stream.append(renderer.keepalive(silent_s))
            case _:
                happened.append(load_event(row))
                stream.append(renderer.feed(happened[-1]))

    check(folder / "stream.sse", b"".join(stream))
    assert is_complete(happened)
    if not isinstance(happened[-1], Failed):
        answer = reply.render([assemble(happened)], using)
        check(folder / "answer.json", orjson.dumps(answer, option=orjson.OPT_INDENT_2) + b"\n")


def is_complete(happened: list[Event]) -> bool:
    order = EventOrder()
    for event in happened:
        order.feed(event)
    return order.ended and any(isinstance(event, Started | Failed) for event in happened)
