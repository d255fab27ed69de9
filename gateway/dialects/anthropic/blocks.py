"""Content blocks of the Messages API -> parts. A block of a type we do not know becomes the text of its JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.canonical import CallLedger, arguments_text
from gateway.dialects import fields
from gateway.dialects.anthropic.schema import BILLING_PREFIX, FOREIGN_BLOCKS, REMINDER_TAGS, UNPARSED_INPUT
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
    messages = fields.sequence(value)
    if not messages:
        fields.refuse("at least one message is required")
    reading = _Reading()
    parsed = fields.each(messages, lambda message: _parse_message(message, reading))
    return wrap_reminders([_without_billing(message) for message in parsed], REMINDER_TAGS), reading.added


def parse_system(value: Any) -> tuple[Message, ...]:
    """The `system` field, a string or blocks, as no message or one."""
    parts = _parse_content(value, _parse_plain_block) if value is not None else ()
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


def _parse_message(value: Any, reading: _Reading) -> Message:
    message = fields.mapping(value)
    wire_role = fields.string(message.get("role"), "role")
    role = _ROLES.get(wire_role)
    if role is None:
        fields.refuse("Input should be 'user', 'assistant' or 'system'", "role")

    def parse_block(block: Mapping[str, Any], kind: str) -> tuple[Part, ...]:
        only_in = _ONLY_IN.get(kind, role)
        if role != only_in and (role, kind) not in _ALSO_IN:
            fields.refuse(f"`{kind}` blocks can only be in `{only_in}` messages")
        own: tuple[Part, ...] | None = None
        match role:
            case "assistant":
                own = _parse_said(block, kind, reading)
            case "user" if kind == "tool_result":
                own = reading.ledger.result(_parse_tool_result(block))
            case "system" if kind in ("tool_addition", "tool_removal"):
                own = parse_tool_change(block, kind, reading.added)
        return _parse_plain_block(block, kind) if own is None else own

    with fields.within("content"):
        return Message(role=role, parts=_parse_content(message.get("content"), parse_block))


def _parse_said(block: Mapping[str, Any], kind: str, reading: _Reading) -> tuple[Part, ...] | None:
    """Blocks that mean something of their own in an answer; None for others."""
    match kind:
        case "tool_use":
            return (_parse_tool_use(block, reading.ledger),)
        case "thinking":
            text = fields.string(block.get("thinking"), "thinking")
            return (ReasoningPart(text=text, signature=fields.optional_string(block.get("signature"), "signature")),)
        case "redacted_thinking":
            return (ReasoningPart(text="", signature=fields.optional_string(block.get("data"), "data")),)
        case "server_tool_use" | "web_search_tool_result" if is_our_search(block):
            return ()
    return None


def _parse_content(value: Any, parse_block: Callable[[Mapping[str, Any], str], tuple[Part, ...]]) -> tuple[Part, ...]:
    """A string or a list of blocks; empty text becomes no part."""
    if isinstance(value, str):
        return (TextPart(text=value),) if value else ()
    if not isinstance(value, list):
        fields.refuse("Input should be a valid string or list" if value is not None else "Field required")

    def parse_item(item: Any) -> tuple[Part, ...]:
        if isinstance(item, str):
            return (TextPart(text=item),)
        block = fields.mapping(item)
        return parse_block(block, fields.string(block.get("type"), "type"))

    parts = [part for parsed in fields.each(value, parse_item) for part in parsed]
    return tuple(part for part in parts if not (isinstance(part, TextPart) and not part.text))


def _parse_plain_block(block: Mapping[str, Any], kind: str) -> tuple[ResultPart, ...]:
    """Blocks that may stand in any message, in `system` and in a tool result."""
    match kind:
        case "text":
            return (TextPart(text=fields.string(block.get("text"), "text")),)
        case "image":
            return (_parse_image(block),)
        case "document":
            return _parse_document(block)
        case "tool_reference":
            return (ToolReferencePart(tool_name=fields.name(block.get("tool_name"), "tool_name")),)
        case "search_result":
            return _parse_search_result(block)
        case "container_upload":
            fields.refuse("uploaded files are not kept here, send their content", kind=UnsupportedContentError)
        case "fallback":
            return ()  # marks a place between two of the vendor's models
        case foreign if foreign in FOREIGN_BLOCKS:
            own = FOREIGN_BLOCKS[foreign]
            hint = f", use `{own}`" if own else ""
            fields.refuse(f"`{foreign}` blocks are of another API{hint}", "type", kind=UnsupportedContentError)
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


def _parse_search_result(block: Mapping[str, Any]) -> tuple[ResultPart, ...]:
    """What the client itself has found: title and source before the text."""
    named = (fields.optional_string(block.get(key), key) for key in ("title", "source"))
    heading = "\n".join(text for text in named if text)
    with fields.within("content"):
        content = _parse_plain_content(block.get("content"))
    return (*((TextPart(text=heading),) if heading else ()), *content)


def _parse_image(block: Mapping[str, Any]) -> ImagePart:
    source = fields.mapping(block.get("source"), "source")
    match fields.string(source.get("type"), "source", "type"):
        case "base64":
            return ImagePart(
                media_type=fields.name(source.get("media_type"), "source", "media_type"),
                data=fields.name(source.get("data"), "source", "data"),
            )
        case "url":
            return ImagePart(media_type="", url=fields.name(source.get("url"), "source", "url"))
        case other:
            problem = f"{other!r} images are not supported, send base64"
            fields.refuse(problem, "source", "type", kind=UnsupportedContentError)


def _parse_document(block: Mapping[str, Any]) -> tuple[ResultPart, ...]:
    source = fields.mapping(block.get("source"), "source")
    title = fields.optional_string(block.get("title"), "title")
    heading = (TextPart(text=title),) if title else ()
    match fields.string(source.get("type"), "source", "type"):
        case "base64":
            return (
                DocumentPart(
                    media_type=fields.name(source.get("media_type"), "source", "media_type"),
                    data=fields.name(source.get("data"), "source", "data"),
                    title=title,
                ),
            )
        case "text":
            return (*heading, TextPart(text=fields.string(source.get("data"), "source", "data")))
        case "content":
            with fields.within("source", "content"):
                return (*heading, *_parse_plain_content(source.get("content")))
        case other:
            problem = f"{other!r} documents are not supported, send base64 or text"
            fields.refuse(problem, "source", "type", kind=UnsupportedContentError)


def _parse_plain_content(value: Any) -> tuple[ResultPart, ...]:
    # The same reader as for messages; only its type is narrower, because the blocks are.
    return _parse_content(value, _parse_plain_block)  # type: ignore[return-value]


def _parse_tool_use(block: Mapping[str, Any], ledger: CallLedger) -> ToolCallPart:
    call_id = fields.name(block.get("id"), "id")
    name = fields.name(block.get("name"), "name")
    if not ledger.call(call_id, name):
        fields.refuse(f"`tool_use` ids must be unique, {call_id!r} is used twice")  # clients look for these words
    arguments = _parse_input(fields.optional_mapping(block.get("input"), "input"))
    return ToolCallPart(id=call_id, name=name, arguments=arguments)


def _parse_input(value: Mapping[str, Any]) -> str:
    """Input that never parsed comes back wrapped; what the model really wrote is inside."""
    unparsed = value.get(UNPARSED_INPUT)
    if len(value) == 1 and isinstance(unparsed, dict) and isinstance(unparsed.get("raw"), str):
        return str(unparsed["raw"])
    return arguments_text(value)


def _parse_tool_result(block: Mapping[str, Any]) -> ToolResultPart:
    content = block.get("content")
    with fields.within("content"):
        parts = _parse_plain_content(content) if content is not None else ()
    return ToolResultPart(
        call_id=fields.name(block.get("tool_use_id"), "tool_use_id"),
        parts=parts,
        is_error=fields.boolean(block.get("is_error"), "is_error"),
    )
