"""What counting the tokens of a long conversation of short messages costs, seen for the first time."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from shared.messages import Message, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, ToolDefinition
from tests.bench.report import Table
from tests.bench.templates import FOLDER_VARIABLE, OWN
from tests.models.templates import tokenizer_for
from worker.prompt import PromptBuilder

MESSAGES, ROUNDS = 3000, 1000
_READ = ToolDefinition(name="read", description="Reads a file.", parameters={"type": "object", "properties": {}})
_RUNS = 3


def measure_counts() -> Table:
    """With the templates of the folder that the variable names, else with the small ones of the tests."""
    table = Table(
        title=f"count_tokens of a conversation seen for the first time, CPU time, median of {_RUNS}",
        head=("template", "mode", f"{MESSAGES:,} short messages", f"{ROUNDS:,} tool rounds"),
    )
    folder = Path(os.environ.get(FOLDER_VARIABLE) or OWN)
    for path in sorted(folder.glob("*.jinja")):
        builder = PromptBuilder(tokenizer_for(path.read_text()), context_tokens=1 << 20)
        spent = [_count_s(builder, request) for request in (short_messages(MESSAGES), tool_rounds(ROUNDS))]
        table.add(path.stem, builder.facts.mode, *(f"{seconds:.2f} s" for seconds in spent))
    return table


def _count_s(builder: PromptBuilder, request: GenerateRequest) -> float:
    return statistics.median(_once_s(builder, request, str(run)) for run in range(_RUNS))


def _once_s(builder: PromptBuilder, request: GenerateRequest, tenant: str) -> float:
    """As a tenant of its own, who finds nothing of what the others built."""
    asked = GenerateRequest(
        id="r", model="m", tenant=tenant + request.id, messages=request.messages, tools=request.tools
    )
    began_s = time.process_time()
    builder.count_tokens(asked)
    return time.process_time() - began_s


def short_messages(count: int) -> GenerateRequest:
    """Questions and answers, the last message a question."""
    roles = [("user", "assistant")[number % 2] for number in range(count - 1 + count % 2)]
    messages = tuple(_said(role, f"message {number}") for number, role in enumerate(roles))
    return GenerateRequest(id="short", model="m", messages=messages)


def tool_rounds(count: int) -> GenerateRequest:
    """A question and calls with their results."""
    messages = (_said("user", "please read the files"), *(message for n in range(count) for message in _round(n)))
    return GenerateRequest(id="rounds", model="m", messages=messages, tools=(_READ,))


def _round(number: int) -> Iterator[Message]:
    call = ToolCallPart(id=f"call{number:05d}", name="read", arguments=f'{{"path": "file{number}.py"}}')
    yield Message(role="assistant", parts=(TextPart(text=f"file {number}"), call))
    text = TextPart(text=f"content of file {number}")
    yield Message(role="tool", parts=(ToolResultPart(call_id=call.id, parts=(text,)),))


def _said(role: str, text: str) -> Message:
    return Message(role=role, parts=(TextPart(text=text),))  # type: ignore[arg-type]
