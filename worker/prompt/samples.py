"""What a chat template makes of an answer: how the model calls a tool, and how its turn ends."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shared.errors import GatewayError
from worker.formats.reasoning import Reasoning, shown_reasoning
from worker.prompt.template import Template, Tokenizer, ToolDict

_NAME, _USER, _ANSWER, _LATER = "zztool", "zzuser", "zzanswer", "zzlater"
_ARGUMENTS = {"zzkey": "zzvalue"}
_TOOL = ToolDict(
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "zzdescription",
            "parameters": {"type": "object", "properties": {"zzkey": {"type": "string"}}, "required": ["zzkey"]},
        },
    }
)


class ThinkingTokenizer(Tokenizer, Protocol):
    """One that has looked for reasoning markers itself."""

    think_start: str | None
    think_end: str | None

    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class CallSample:
    """`rendered` is a message that calls the tool `name`, empty where the template refuses it; `source` the template's
    own text, which tells the model how to call."""

    name: str
    source: str
    rendered: str


def call_sample(tokenizer: Tokenizer) -> CallSample:
    """Raises `ModelUnavailableError` for a template that does not compile."""
    template = Template(tokenizer)
    return CallSample(_NAME, template.source, _rendered(template))


def _rendered(template: Template) -> str:
    """With arguments as an object, as most templates want them, else as text."""
    for arguments in (_ARGUMENTS, json.dumps(_ARGUMENTS)):
        text = _attempt(template, arguments)
        if "zzvalue" in text:
            return text
    return ""


def _attempt(template: Template, arguments: Any) -> str:
    call = {"type": "function", "id": "call00000", "function": {"name": _NAME, "arguments": arguments}}
    messages: list[Mapping[str, Any]] = [
        {"role": "user", "content": _USER},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00000", "name": _NAME, "content": "zzresult"},
    ]
    try:
        text = template.render(messages, [_TOOL], {}, header=False)
    except GatewayError:
        return ""
    return text[text.find(_USER) + len(_USER) :]


def find_reasoning(tokenizer: ThinkingTokenizer) -> Reasoning | None:
    """How the model marks its reasoning, None where it has none. Raises `ModelUnavailableError` for a template that
    does not compile."""
    start, end = tokenizer.think_start, tokenizer.think_end
    template = Template(tokenizer)
    known = (start, end) if start and end else None
    return shown_reasoning(template.source, tokenizer.get_vocab(), known, _answered(template).partition(_ANSWER)[0])


def turn_end(tokenizer: Tokenizer, tokens: Collection[str], ends: Collection[str]) -> str:
    """The control token, of these `tokens`, with which the template ends an answer; empty where it writes none, or one
    of the known `ends`. Raises `ModelUnavailableError` for a template that does not compile."""
    behind = _answered(Template(tokenizer)).rpartition(_ANSWER)[2].partition(_LATER)[0].lstrip()
    if any(end in behind for end in ends):
        return ""
    return max((token for token in tokens if token and behind.startswith(token)), key=len, default="")


def _answered(template: Template) -> str:
    """A conversation with an answer in it, empty where the template writes none."""
    if not template.source:
        return ""
    messages = [
        {"role": "user", "content": _USER},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _LATER},
    ]
    try:
        return template.render(messages, [], {}, header=False)
    except GatewayError:
        return ""
