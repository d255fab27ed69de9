"""What the pieces of a model's text come to, read as a family's answers are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

from shared.events import Finished, Started, Usage, assemble
from shared.messages import ReasoningPart, TextPart, ToolCallPart
from shared.request import GenerateRequest, ToolDefinition
from worker.answers.form import AnswerFormat, Beginning
from worker.answers.reasoning import Markup
from worker.answers.stream import AnswerStream
from worker.formats.families import Family
from worker.formats.readers import CallFormat


def said(
    family: Family,
    markup: Markup,
    pieces: Sequence[str],
    tools: Sequence[ToolDefinition],
    reason: Any = "stop",
) -> list[Any]:
    """Texts as they are, reasoning as ("think", text), calls as [name, arguments]."""
    request = GenerateRequest(id="r", model="m", messages=(), tools=tuple(tools))
    ids = (str(number) for number in count())
    stream = AnswerStream(AnswerFormat(markup, CallFormat(family)), request, Beginning(), ids.__next__)
    events = [event for piece in pieces for event in stream.text(piece)]
    last, finish, _ = stream.finish(reason)
    ended = Finished(reason=finish, usage=Usage(), stop_sequence="")
    found: list[Any] = []
    for part in assemble([Started(usage=Usage()), *events, *last, ended]).parts:
        match part:
            case TextPart(text=text):
                found.append(text)
            case ReasoningPart(text=text):
                found.append(("think", text))
            case ToolCallPart(name=name, arguments=arguments):
                found.append([name, json.loads(arguments)])
            case _:
                raise AssertionError(part)
    return found
