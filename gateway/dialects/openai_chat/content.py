"""Chat messages -> messages. Old `function_call` messages, which have no ids, get ids by their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from gateway.canonical import CallLedger, arguments_text, normal_arguments
from gateway.dialects import fields
from gateway.dialects.openai_chat.schema import REASONING_KINDS, REMINDER_TAGS, ROLES
from gateway.dialects.reminders import wrap_reminders
from shared.errors import UnsupportedContentError
from shared.messages import (
    DocumentPart,
    ImagePart,
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
    messages = fields.sequence(value, "messages")
    if not messages:
        fields.refuse("messages", "at least one message is required")
    parser = _MessageParser()
    parsed = [parser.parse(message, f"messages[{index}]") for index, message in enumerate(messages)]
    return wrap_reminders(parsed, REMINDER_TAGS)


class _MessageParser:
    """Reads messages in order; remembers calls, so that results find them."""

    def __init__(self) -> None:
        self._ledger = CallLedger()
        self._functions: dict[str, str] = {}  # function name -> id we gave its last call

    def parse(self, value: Any, at: str) -> Message:
        message = fields.mapping(value, at)
        wire_role = fields.string(message.get("role"), f"{at}.role")
        role = ROLES.get(wire_role)
        if role is None:
            fields.refuse(f"{at}.role", f"Input should be one of {', '.join(map(repr, ROLES))}")
        if role == "assistant":
            return Message(role=role, parts=self._assistant_parts(message, at))
        content = _parse_content(message.get("content"), f"{at}.content")
        if role == "tool":
            return self._result(message, wire_role, content, at)
        if message.get("content") is None:
            fields.refuse(f"{at}.content", "Field required")
        return Message(role=role, parts=content)

    def _assistant_parts(self, message: Mapping[str, Any], at: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        key = "reasoning_content" if message.get("reasoning_content") is not None else "reasoning"
        reasoning = fields.optional_string(message.get(key), f"{at}.{key}")
        if reasoning:
            parts.append(ReasoningPart(text=reasoning))
        parts.extend(_parse_said(message.get("content"), f"{at}.content"))
        refusal = fields.optional_string(message.get("refusal"), f"{at}.refusal")
        if refusal:
            parts.append(TextPart(text=refusal))
        calls = fields.optional_sequence(message.get("tool_calls"), f"{at}.tool_calls")
        parts.extend(self._call(call, f"{at}.tool_calls[{index}]") for index, call in enumerate(calls))
        if message.get("function_call") is not None:
            parts.append(self._function_call(message["function_call"], f"{at}.function_call"))
        return tuple(parts)

    def _call(self, value: Any, at: str) -> ToolCallPart:
        call = fields.mapping(value, at)
        call_id = fields.name(call.get("id"), f"{at}.id")
        if call.get("type") == "custom":
            custom = fields.mapping(call.get("custom"), f"{at}.custom")
            text = fields.optional_string(custom.get("input"), f"{at}.custom.input")
            name, arguments = fields.name(custom.get("name"), f"{at}.custom.name"), arguments_text({"input": text})
        else:
            name, arguments = _parse_function(call.get("function"), f"{at}.function")
        if not self._ledger.call(call_id, name):
            fields.refuse(f"{at}.id", f"tool call ids must be unique, {call_id!r} is used twice")
        return ToolCallPart(id=call_id, name=name, arguments=arguments)

    def _function_call(self, value: Any, at: str) -> ToolCallPart:
        name, arguments = _parse_function(value, at)
        call_id = self._functions[name] = f"{at}:{name}"
        self._ledger.call(call_id, name)
        return ToolCallPart(id=call_id, name=name, arguments=arguments)

    def _result(self, message: Mapping[str, Any], wire_role: str, content: tuple[ResultPart, ...], at: str) -> Message:
        """A `tool` message, or a user's, where no call waits for this result."""
        if wire_role == "function":
            name = fields.name(message.get("name"), f"{at}.name")
            call_id = self._functions.get(name, name)
        else:
            name = fields.optional_string(message.get("name"), f"{at}.name")
            call_id = fields.name(message.get("tool_call_id"), f"{at}.tool_call_id")
        result = ToolResultPart(call_id=call_id, parts=content)
        parts = self._ledger.result(result, name)
        return Message(role="tool" if parts == (result,) else "user", parts=parts)


def _parse_function(value: Any, at: str) -> tuple[str, str]:
    """(name, arguments). Arguments come as text, from some clients as the object itself."""
    function = fields.mapping(value, at)
    arguments = function.get("arguments")
    text = (
        arguments_text(arguments)
        if isinstance(arguments, dict)
        else fields.optional_string(arguments, f"{at}.arguments")
    )
    return fields.name(function.get("name"), f"{at}.name"), normal_arguments(text)


def _parse_content(value: Any, at: str) -> tuple[ResultPart, ...]:
    """A string, a list of content parts, or null."""
    return _spoken([_parse_part(part, where) for part, where in _items(value, at)])


def _parse_said(value: Any, at: str) -> tuple[Part, ...]:
    """The same of an answer, in which some clients keep its reasoning."""
    return _spoken([_parse_reasoning(part, where) or _parse_part(part, where) for part, where in _items(value, at)])


def _spoken(parts: list[_P]) -> tuple[_P, ...]:
    return tuple(part for part in parts if not (isinstance(part, TextPart) and not part.text))


def _items(value: Any, at: str) -> list[tuple[Any, str]]:
    """Every part of a message's content, with its name."""
    if value is None or isinstance(value, str):
        return [(value, at)] if value else []
    if not isinstance(value, list):
        fields.refuse(at, "Input should be a valid string or list")
    return [(part, f"{at}[{index}]") for index, part in enumerate(value)]


def _parse_reasoning(value: Any, at: str) -> ReasoningPart | None:
    """A part of the kinds that hold reasoning: its text stands in the part itself or in parts of its own."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in REASONING_KINDS:
        return None
    key = next((key for key in ("thinking", "reasoning", "text") if value.get(key) is not None), "text")
    held = value.get(key, "")
    texts = [_parse_part(part, where) for part, where in _items(held, f"{at}.{key}")]
    return ReasoningPart(text="".join(part.text for part in texts if isinstance(part, TextPart)))


def _parse_part(value: Any, at: str) -> ResultPart:
    if isinstance(value, str):
        return TextPart(text=value)
    part = fields.mapping(value, at)
    match fields.string(part.get("type"), f"{at}.type"):
        case "text" | "input_text" | "output_text":
            return TextPart(text=fields.string(part.get("text"), f"{at}.text"))
        case "refusal":
            return TextPart(text=fields.string(part.get("refusal"), f"{at}.refusal"))
        case "image_url":
            return _parse_image(part.get("image_url"), f"{at}.image_url")
        case "file":
            return _parse_file(part.get("file"), f"{at}.file")
        case other:
            raise UnsupportedContentError(
                f"{at}.type: content of type {other!r} is not supported; use text, image_url or file",
                param=f"{at}.type",
            )


def _parse_image(value: Any, at: str) -> ImagePart:
    """The image's URL, as text or as `{"url": …}`."""
    if not isinstance(value, str):
        value, at = fields.mapping(value, at).get("url"), f"{at}.url"
    url = fields.name(value, at)
    if url.startswith("data:"):
        media_type, data = _parse_data_url(url, at)
        return ImagePart(media_type=media_type, data=data)
    if not url.startswith(("http://", "https://")):
        fields.refuse(at, "Input should be an http(s) or base64 data URL")
    return ImagePart(media_type="", url=url)


def _parse_file(value: Any, at: str) -> DocumentPart:
    file = fields.mapping(value, at)
    if file.get("file_data") is None:
        raise UnsupportedContentError(f"{at}: uploaded files are not supported, send file_data", param=at)
    media_type, data = _parse_data_url(fields.string(file["file_data"], f"{at}.file_data"), f"{at}.file_data")
    return DocumentPart(
        media_type=media_type, data=data, title=fields.optional_string(file.get("filename"), f"{at}.filename")
    )


def _parse_data_url(url: str, at: str) -> tuple[str, str]:
    """(media type, base64 text) of `data:<type>[;…];base64,<data>`."""
    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and comma and head.endswith(";base64") and data):
        fields.refuse(at, "Input should be a base64 data URL, data:<media type>;base64,<data>")
    media_type = head.removeprefix("data:").partition(";")[0]
    if not media_type:
        fields.refuse(at, "the data URL should name its media type")
    return media_type, data
