"""What is asked, and how far each answer is when the fault comes.

A wave is a set of requests that one worker has at one moment, each in a stage of its own, and one fault meets all of
them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.faults.client import CHAT, MESSAGES, Answer, Asked
from tests.faults.fleet import PACED, SAID, Fleet, Node
from tests.faults.texts import SCHEMA, TOOL
from tests.support.processes import wait_until

SHORT_WORDS = 40
_LONG_WORDS = 700
_MIDDLE = 40  # pieces of an answer after which it is in its middle


@dataclass(frozen=True)
class Case:
    """One request and the stage in which the fault meets it."""

    stage: str
    model: str
    words: str
    dialect: str = MESSAGES

    def body(self) -> dict[str, Any]:
        """Each is new to every cache where its prompt is to take its time; the answer is the same."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": 300 if self.words == "json" else 2000,
            "temperature": 0,
            "stream": True,
            "messages": [{"role": "user", "content": self.words.replace("NEW", secrets.token_hex(4))}],
        }
        if self.dialect == CHAT:
            body["stream_options"] = {"include_usage": True}
        if self.words == "call":
            body["tools"] = [TOOL] if self.dialect == MESSAGES else [_chat_tool()]
        if self.words == "json":
            body |= _format(self.dialect)
        return body


def _chat_tool() -> dict[str, Any]:
    function = {"name": TOOL["name"], "description": TOOL["description"], "parameters": TOOL["input_schema"]}
    return {"type": "function", "function": function}


def _format(dialect: str) -> dict[str, Any]:
    if dialect == MESSAGES:
        return {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "page", "schema": SCHEMA}}}


def _long(stage: str) -> str:
    return "NEW " + " ".join(f"{stage}{number}" for number in range(_LONG_WORDS)) + f"\necho:words {SHORT_WORDS}"


def _short() -> str:
    return f"echo:words {SHORT_WORDS}"


@dataclass(frozen=True)
class Wave:
    """`reached` says whether all are where they should be."""

    name: str
    cases: tuple[Case, ...]
    reached: Callable[[Fleet, list[Asked]], bool]

    @property
    def is_before(self) -> bool:
        """Whether nothing was said yet."""
        return self.name == "before"

    @property
    def model(self) -> str:
        return self.cases[0].model


def _has_said(pieces: int) -> Callable[[Fleet, list[Asked]], bool]:
    return lambda _, asked: all(len(each.deltas_s()) >= pieces or not each.is_alive() for each in asked)


def _wait_in_line(fleet: Fleet, asked: list[Asked]) -> bool:
    """The first is prefilled, the second claimed, the third queued."""
    states = [fleet.client.hget(f"rq:job:{each.request_id}-1", "status") if each.request_id else b"" for each in asked]
    return states == [b"started", b"started", b"queued"] and all(not each.deltas_s() for each in asked)


def waves(dialect: str = MESSAGES) -> list[Wave]:
    def case(stage: str, model: str, words: str) -> Case:
        return Case(stage, model, words, dialect)

    return [
        Wave(
            "middle",
            (
                case("mid-text", SAID, "text"),
                case("mid-reasoning", SAID, "reason"),
                case("mid-tool-call", SAID, "call"),
                case("in a schema", SAID, "json"),
            ),
            _has_said(_MIDDLE),
        ),
        Wave(
            "before",
            tuple(case(stage, PACED, _long(stage)) for stage in ("prefilling", "claimed", "queued")),
            _wait_in_line,
        ),
        Wave("first", (case("first token", PACED, _short()),), _has_said(1)),
        Wave("last", (case("last token", PACED, _short()),), _has_said(SHORT_WORDS - 1)),
    ]


DIALECTS = (MESSAGES, CHAT)


def ask(fleet: Fleet, node: Node, case: Case, session: str, headers: Mapping[str, str] | None = None) -> Asked:
    sent = {"x-claude-code-session-id": session, "session_id": session, "x-mlx-gateway-priority": "interactive"}
    return Asked(node.port, case.dialect, case.body(), {**sent, **(headers or {})})


def reference(fleet: Fleet, case: Case) -> Answer:
    """The answer without a fault."""
    asked = ask(fleet, fleet.gateways[0], case, secrets.token_hex(8))
    asked.join(60)
    answer = asked.answer()
    assert answer.is_whole, (case.stage, answer)
    return answer


def filler(fleet: Fleet, node: Node) -> Asked:
    """A prompt that keeps a worker at its prefill for long, so that others go to the other one."""
    words = "NEW " + " ".join(f"filler{number}" for number in range(8000))
    asked = ask(fleet, node, Case("filler", PACED, words), secrets.token_hex(8))
    wait_until(lambda: asked.request_id, "the filler is placed")
    return asked
