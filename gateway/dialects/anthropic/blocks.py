"""Content blocks of the Messages API -> parts. A block of a type we do not know becomes the text of its JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.canonical import CallLedger, arguments_text
from gateway.dialects import fields
from gateway.dialects.anthropic.schema import BILLING_PREFIX, REMINDER_TAGS, UNPARSED_INPUT
from gateway.dialects.anthropic.server_work import is_our_search
from gateway.dialects.anthropic.tools import parse_tool_change
from gateway.dialects.reminders import wrap_reminders
from shared.errors import UnsupportedContentError
from shared.messages import (
    DocumentPart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    ResultPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolReferencePart,
    ToolResultPart,
)
from shared.request import ToolDefinition

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}

# Blocks that have a place in one role only, or almost.
_ONLY_IN: dict[str, Role] = {"tool_use": "assistant", "tool_result": "user", "image": "user", "document": "user"}
_ALSO_IN: frozenset[tuple[Role, str]] = frozenset({("system", "image"), ("system", "document")})


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is known of a conversation so far: its calls, and the tools that it defined by itself."""

    ledger: CallLedger = field(default_factory=CallLedger)
    added: dict[str, ToolDefinition] = field(default_factory=dict)


def parse_messages(value: Any) -> tuple[tuple[Message, ...], Mapping[str, ToolDefinition]]:
    """(one message per wire message, in order and in the client's role; `canonicalise` does the rest; tools that the
    messages define, by name)."""
    messages = fields.sequence(value, "messages")
    if not messages:
        fields.refuse("messages", "at least one message is required")
    reading = _Reading()
    parsed = tuple(_parse_message(message, f"messages.{index}", reading) for index, message in enumerate(messages))
    return wrap_reminders([_without_billing(message) for message in parsed], REMINDER_TAGS), reading.added


def parse_system(value: Any) -> tuple[Message, ...]:
    """The `system` field, a string or blocks, as no message or one."""
    parts = _parse_content(value, "system", _parse_plain_block) if value is not None else ()
    return (_without_billing(Message(role="system", parts=parts)),) if parts else ()


def _without_billing(message: Message) -> Message:
    """A system message without the lines that are meant for the vendor's servers."""
    if message.role != "system":
        return message
    return replace(message, parts=tuple(part for part in map(_unbilled, message.parts) if part != TextPart(text="")))


def _unbilled(part: Part) -> Part:
    if isinstance(part, TextPart) and part.text.startswith(BILLING_PREFIX):
        return TextPart(text=part.text.partition("\n")[2].lstrip("\n"))
    return part


def _parse_message(value: Any, at: str, reading: _Reading) -> Message:
    message = fields.mapping(value, at)
    wire_role = fields.string(message.get("role"), f"{at}.role")
    role = _ROLES.get(wire_role)
    if role is None:
        fields.refuse(f"{at}.role", "Input should be 'user', 'assistant' or 'system'")

    def parse_block(block: Mapping[str, Any], kind: str, at: str) -> tuple[Part, ...]:
        only_in = _ONLY_IN.get(kind, role)
        if role != only_in and (role, kind) not in _ALSO_IN:
            fields.refuse(at, f"`{kind}` blocks can only be in `{only_in}` messages")
        own: tuple[Part, ...] | None = None
        match role:
            case "assistant":
                own = _parse_said(block, kind, at, reading)
            case "user" if kind == "tool_result":
                own = reading.ledger.result(_parse_tool_result(block, at))
            case "system" if kind in ("tool_addition", "tool_removal"):
                own = parse_tool_change(block, kind, at, reading.added)
        return _parse_plain_block(block, kind, at) if own is None else own

    return Message(role=role, parts=_parse_content(message.get("content"), f"{at}.content", parse_block))


def _parse_said(block: Mapping[str, Any], kind: str, at: str, reading: _Reading) -> tuple[Part, ...] | None:
    """Blocks that mean something of their own in an answer; None for others."""
    match kind:
        case "tool_use":
            return (_parse_tool_use(block, at, reading.ledger),)
        case "thinking":
            text = fields.string(block.get("thinking"), f"{at}.thinking")
            return (
                ReasoningPart(text=text, signature=fields.optional_string(block.get("signature"), f"{at}.signature")),
            )
        case "redacted_thinking":
            return (ReasoningPart(text="", signature=fields.optional_string(block.get("data"), f"{at}.data")),)
        case "server_tool_use" | "web_search_tool_result" if is_our_search(block):
            return ()
    return None


def _parse_content(
    value: Any, at: str, parse_block: Callable[[Mapping[str, Any], str, str], tuple[Part, ...]]
) -> tuple[Part, ...]:
    """A string or a list of blocks; empty text becomes no part."""
    if isinstance(value, str):
        return (TextPart(text=value),) if value else ()
    if not isinstance(value, list):
        fields.refuse(at, "Input should be a valid string or list" if value is not None else "Field required")
    parts: list[Part] = []
    for index, item in enumerate(value):
        where = f"{at}.{index}"
        if isinstance(item, str):
            parts.append(TextPart(text=item))
            continue
        block = fields.mapping(item, where)
        parts.extend(parse_block(block, fields.string(block.get("type"), f"{where}.type"), where))
    return tuple(part for part in parts if not (isinstance(part, TextPart) and not part.text))


def _parse_plain_block(block: Mapping[str, Any], kind: str, at: str) -> tuple[ResultPart, ...]:
    """Blocks that may stand in any message, in `system` and in a tool result."""
    match kind:
        case "text":
            return (TextPart(text=fields.string(block.get("text"), f"{at}.text")),)
        case "image":
            return (_parse_image(block, at),)
        case "document":
            return _parse_document(block, at)
        case "tool_reference":
            return (ToolReferencePart(tool_name=fields.name(block.get("tool_name"), f"{at}.tool_name")),)
        case "search_result":
            return _parse_search_result(block, at)
        case "container_upload":
            raise UnsupportedContentError(f"{at}: uploaded files are not kept here, send their content", param=at)
        case "fallback":
            return ()  # marks a place between two of the vendor's models
    return (TextPart(text=fields.json_text(_for_models(block))),)


def _for_models(value: Any) -> Any:
    """JSON without what says nothing to a model: `cache_control`, which moves from block to block as a conversation
    grows, and what only the vendor can read."""
    if isinstance(value, dict):
        kept = ((k, v) for k, v in value.items() if k != "cache_control" and not k.startswith("encrypted_"))
        return {key: _for_models(item) for key, item in kept}
    if isinstance(value, list):
        return [_for_models(item) for item in value]
    return value


def _parse_search_result(block: Mapping[str, Any], at: str) -> tuple[ResultPart, ...]:
    """What the client itself has found: title and source before the text."""
    named = (fields.optional_string(block.get(key), f"{at}.{key}") for key in ("title", "source"))
    heading = "\n".join(text for text in named if text)
    content = _parse_plain_content(block.get("content"), f"{at}.content")
    return (*((TextPart(text=heading),) if heading else ()), *content)


def _parse_image(block: Mapping[str, Any], at: str) -> ImagePart:
    source = fields.mapping(block.get("source"), f"{at}.source")
    match fields.string(source.get("type"), f"{at}.source.type"):
        case "base64":
            return ImagePart(
                media_type=fields.name(source.get("media_type"), f"{at}.source.media_type"),
                data=fields.name(source.get("data"), f"{at}.source.data"),
            )
        case "url":
            return ImagePart(media_type="", url=fields.name(source.get("url"), f"{at}.source.url"))
        case other:
            raise UnsupportedContentError(
                f"{at}.source.type: {other!r} images are not supported, send base64", param=f"{at}.source.type"
            )


def _parse_document(block: Mapping[str, Any], at: str) -> tuple[ResultPart, ...]:
    source = fields.mapping(block.get("source"), f"{at}.source")
    title = fields.optional_string(block.get("title"), f"{at}.title")
    heading = (TextPart(text=title),) if title else ()
    match fields.string(source.get("type"), f"{at}.source.type"):
        case "base64":
            return (
                DocumentPart(
                    media_type=fields.name(source.get("media_type"), f"{at}.source.media_type"),
                    data=fields.name(source.get("data"), f"{at}.source.data"),
                    title=title,
                ),
            )
        case "text":
            return (*heading, TextPart(text=fields.string(source.get("data"), f"{at}.source.data")))
        case "content":
            return (*heading, *_parse_plain_content(source.get("content"), f"{at}.source.content"))
        case other:
            raise UnsupportedContentError(
                f"{at}.source.type: {other!r} documents are not supported, send base64 or text",
                param=f"{at}.source.type",
            )


def _parse_plain_content(value: Any, at: str) -> tuple[ResultPart, ...]:
    # The same reader as for messages; only its type is narrower, because the blocks are.
    return _parse_content(value, at, _parse_plain_block)  # type: ignore[return-value]


def _parse_tool_use(block: Mapping[str, Any], at: str, ledger: CallLedger) -> ToolCallPart:
    call_id = fields.name(block.get("id"), f"{at}.id")
    name = fields.name(block.get("name"), f"{at}.name")
    if not ledger.call(call_id, name):
        fields.refuse(at, f"`tool_use` ids must be unique, {call_id!r} is used twice")  # clients look for these words
    arguments = _parse_input(fields.optional_mapping(block.get("input"), f"{at}.input"))
    return ToolCallPart(id=call_id, name=name, arguments=arguments)


def _parse_input(value: Mapping[str, Any]) -> str:
    """Input that never parsed comes back wrapped; what the model really wrote is inside."""
    unparsed = value.get(UNPARSED_INPUT)
    if len(value) == 1 and isinstance(unparsed, dict) and isinstance(unparsed.get("raw"), str):
        return str(unparsed["raw"])
    return arguments_text(value)


def _parse_tool_result(block: Mapping[str, Any], at: str) -> ToolResultPart:
    content = block.get("content")
    return ToolResultPart(
        call_id=fields.name(block.get("tool_use_id"), f"{at}.tool_use_id"),
        parts=_parse_plain_content(content, f"{at}.content") if content is not None else (),
        is_error=fields.boolean(block.get("is_error"), f"{at}.is_error"),
    )
