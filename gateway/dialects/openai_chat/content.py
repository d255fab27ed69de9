"""Chat messages -> messages. Old `function_call` messages, which have no ids, get ids by their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gateway.canonical import CallLedger, arguments_text, normal_arguments
from gateway.dialects import fields
from gateway.dialects.openai.media import parse_file, parse_image
from gateway.dialects.openai.schema import REMINDER_TAGS
from gateway.dialects.openai_chat.schema import REASONING_KINDS, ROLES
from gateway.dialects.reminders import wrap_reminders
from shared.errors import UnsupportedContentError
from shared.messages import (
    Message,
    Part,
    ReasoningPart,
    ResultPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

_P = TypeVar("_P", Part, ResultPart)


def parse_messages(value: Any) -> tuple[Message, ...]:
    """One message per wire message, in order; `developer` is `system`, and `canonicalise` does the rest."""
    messages = fields.sequence(value)
    if not messages:
        fields.refuse("at least one message is required")
    return wrap_reminders(fields.each(messages, _MessageParser().parse), REMINDER_TAGS)


class _MessageParser:
    """Reads messages in order; remembers calls, so that results find them."""

    def __init__(self) -> None:
        self._ledger = CallLedger()
        self._functions: dict[str, str] = {}  # function name -> id we gave its last call
        self._count = 0  # of the ids we gave

    def parse(self, value: Any) -> Message:
        message = fields.mapping(value)
        wire_role = fields.string(message.get("role"), "role")
        role = ROLES.get(wire_role)
        if role is None:
            fields.refuse(f"Input should be one of {', '.join(map(repr, ROLES))}", "role")
        if role == "assistant":
            return Message(role=role, parts=self._assistant_parts(message))
        with fields.within("content"):
            content = _parse_content(message.get("content"))
        if role == "tool":
            return self._result(message, wire_role, content)
        if message.get("content") is None:
            fields.refuse("Field required", "content")
        return Message(role=role, parts=content)

    def _assistant_parts(self, message: Mapping[str, Any]) -> tuple[Part, ...]:
        parts: list[Part] = []
        key = "reasoning_content" if message.get("reasoning_content") is not None else "reasoning"
        reasoning = fields.optional_string(message.get(key), key)
        if reasoning:
            parts.append(ReasoningPart(text=reasoning))
        with fields.within("content"):
            parts.extend(_parse_said(message.get("content")))
        refusal = fields.optional_string(message.get("refusal"), "refusal")
        if refusal:
            parts.append(TextPart(text=refusal))
        calls = fields.optional_sequence(message.get("tool_calls"), "tool_calls")
        with fields.within("tool_calls"):
            parts.extend(fields.each(calls, self._call))
        if message.get("function_call") is not None:
            with fields.within("function_call"):
                parts.append(self._function_call(message["function_call"]))
        return tuple(parts)

    def _call(self, value: Any) -> ToolCallPart:
        call = fields.mapping(value)
        call_id = fields.name(call.get("id"), "id")
        if call.get("type") == "custom":
            custom = fields.mapping(call.get("custom"), "custom")
            text = fields.optional_string(custom.get("input"), "custom", "input")
            name, arguments = fields.name(custom.get("name"), "custom", "name"), arguments_text({"input": text})
        else:
            with fields.within("function"):
                name, arguments = _parse_function(call.get("function"))
        if not self._ledger.call(call_id, name):
            fields.refuse(f"tool call ids must be unique, {call_id!r} is used twice", "id")
        return ToolCallPart(id=call_id, name=name, arguments=arguments)

    def _function_call(self, value: Any) -> ToolCallPart:
        name, arguments = _parse_function(value)
        self._count += 1
        call_id = self._functions[name] = f"function_call:{self._count}:{name}"
        self._ledger.call(call_id, name)
        return ToolCallPart(id=call_id, name=name, arguments=arguments)

    def _result(self, message: Mapping[str, Any], wire_role: str, content: tuple[ResultPart, ...]) -> Message:
        """A `tool` message, or a user's, where no call waits for this result."""
        if wire_role == "function":
            name = fields.name(message.get("name"), "name")
            call_id = self._functions.get(name, name)
        else:
            name = fields.optional_string(message.get("name"), "name")
            call_id = fields.name(message.get("tool_call_id"), "tool_call_id")
        result = ToolResultPart(call_id=call_id, parts=content)
        parts = self._ledger.result(result, name)
        return Message(role="tool" if parts == (result,) else "user", parts=parts)


def _parse_function(value: Any) -> tuple[str, str]:
    """(name, arguments). Arguments come as text, from some clients as the object itself."""
    function = fields.mapping(value)
    arguments = function.get("arguments")
    text = arguments_text(arguments) if isinstance(arguments, dict) else fields.optional_string(arguments, "arguments")
    return fields.name(function.get("name"), "name"), normal_arguments(text)


def _parse_content(value: Any) -> tuple[ResultPart, ...]:
    """A string, a list of content parts, or null."""
    return _spoken(_parse_items(value, _parse_part))


def _parse_said(value: Any) -> tuple[Part, ...]:
    """The same of an answer, in which some clients keep its reasoning."""
    return _spoken(_parse_items(value, lambda part: _parse_reasoning(part) or _parse_part(part)))


def _spoken(parts: list[_P]) -> tuple[_P, ...]:
    return tuple(part for part in parts if not (isinstance(part, TextPart) and not part.text))


def _parse_items(value: Any, parse: Callable[[Any], _P]) -> list[_P]:
    """Every part of a message's content, or its text as the one part."""
    if value is None or isinstance(value, str):
        return [parse(value)] if value else []
    if not isinstance(value, list):
        fields.refuse("Input should be a valid string or list")
    return fields.each(value, parse)


def _parse_reasoning(value: Any) -> ReasoningPart | None:
    """A part of the kinds that hold reasoning: its text stands in the part itself or in parts of its own."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in REASONING_KINDS:
        return None
    key = next((key for key in ("thinking", "reasoning", "text") if value.get(key) is not None), "text")
    with fields.within(key):
        texts = _parse_items(value.get(key, ""), _parse_part)
    return ReasoningPart(text="".join(part.text for part in texts if isinstance(part, TextPart)))


def _parse_part(value: Any) -> ResultPart:
    if isinstance(value, str):
        return TextPart(text=value)
    part = fields.mapping(value)
    match fields.string(part.get("type"), "type"):
        case "text" | "input_text" | "output_text":
            return TextPart(text=fields.string(part.get("text"), "text"))
        case "refusal":
            return TextPart(text=fields.string(part.get("refusal"), "refusal"))
        case "image_url":
            with fields.within("image_url"):
                return parse_image(part.get("image_url"))
        case "file":
            with fields.within("file"):
                return parse_file(part.get("file"))
        case other:
            problem = f"content of type {other!r} is not supported; use text, image_url or file"
            fields.refuse(problem, "type", kind=UnsupportedContentError)
