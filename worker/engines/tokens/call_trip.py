"""Whether a call as the model's own template writes it is read back by our reader."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from shared.errors import GatewayError
from shared.events import Event, Finished, Started, Usage, assemble
from shared.messages import Message, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, ToolDefinition
from worker.engines.tokens.output import OutputStream
from worker.prompt import PromptBuilder
from worker.prompt.sequences import common_length

_RESULT = "zzresult"
_TOOL = ToolDefinition(
    name="zztool",
    description="zzdescription",
    parameters={
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "zztext"},
            "count": {"type": "integer", "description": "zzcount"},
            "more": {"type": "array", "description": "zzmore", "items": {"type": "object", "properties": {}}},
        },
        "required": ["text"],
    },
)
_FLAT: dict[str, Any] = {"text": "    if x:\n        return 1\n", "count": 3}
_NESTED: dict[str, Any] = {"text": 'é "q" </p>', "more": [{"old": "a\n", "new": " b"}, {"deep": {"list": [1, None]}}]}
SAMPLES: dict[str, tuple[dict[str, Any], ...]] = {
    "call": (_FLAT,),
    "nested arguments": (_NESTED,),
    "two calls": (_FLAT, {"text": "null"}),
}


def failed_trips(tokenizer: Any, builder: PromptBuilder) -> dict[str, str]:
    """Of `SAMPLES`, those that do not come back as they were, each with what came."""
    failed = {}
    one_at_a_time = "parallel calls" in builder.facts.lacks
    for name, calls in SAMPLES.items():
        if one_at_a_time and len(calls) > 1:
            continue
        try:
            came = _read_back(tokenizer, builder, calls)
        except GatewayError as error:
            failed[name] = str(error)
            continue
        if came != [("zztool", arguments) for arguments in calls]:
            failed[name] = f"read as {came}" if came else "no call was read"
    return failed


def _read_back(tokenizer: Any, builder: PromptBuilder, calls: Sequence[dict[str, Any]]) -> list[tuple[str, Any]]:
    asked = _request()
    answered = _request(*_turn(calls))
    before, after = builder.build(asked), builder.build(answered)
    start = common_length(before.tokens, after.tokens)
    ids = (f"call{number:05d}" for number in itertools.count())
    stream = OutputStream(tokenizer, asked, before, lambda: next(ids))
    events: list[Event] = [Started(usage=Usage())]
    text = ""
    for token in after.tokens[start:]:
        text += tokenizer.decode([token])
        if token in tokenizer.eos_token_ids or _RESULT in text:
            break
        events += stream.feed(token)
    rest, reason, stop = stream.finish("stop")
    message = assemble([*events, *rest, Finished(reason=reason, usage=Usage(), stop_sequence=stop)])
    return [(part.name, _value(part.arguments)) for part in message.parts if isinstance(part, ToolCallPart)]


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _request(*messages: Message) -> GenerateRequest:
    user = Message(role="user", parts=(TextPart(text="zzuser"),))
    return GenerateRequest(id="trip", model="trip", messages=(user, *messages), tools=(_TOOL,))


def _turn(calls: Sequence[dict[str, Any]]) -> list[Message]:
    parts = tuple(
        ToolCallPart(id=f"call{number:05d}", name=_TOOL.name, arguments=json.dumps(arguments, ensure_ascii=False))
        for number, arguments in enumerate(calls)
    )
    results = [
        Message(role="tool", parts=(ToolResultPart(call_id=part.id, parts=(TextPart(text=_RESULT),)),))
        for part in parts
    ]
    return [Message(role="assistant", parts=parts), *results]
