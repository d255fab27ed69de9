"""A Messages API body -> `GenerateRequest`. Unknown fields are ignored: the next client release sends them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.dialects import fields
from gateway.dialects.anthropic.blocks import parse_messages, parse_system
from gateway.dialects.anthropic.breakpoints import asked_breakpoints
from gateway.dialects.anthropic.render import MessageReply
from gateway.dialects.anthropic.schema import (
    EFFORTS,
    HEADER_AGENT,
    HEADER_SESSION,
    SUGGESTION_PREFIX,
    THINKING,
)
from gateway.dialects.anthropic.server_work import asked_safeguards, demanded_search, unavailable_note
from gateway.dialects.anthropic.tools import parse_tool_choice, parse_tools, unavailable
from gateway.dialects.base import Parsed
from gateway.dialects.priority import asked_priority
from gateway.dialects.retries import is_retry
from gateway.dialects.sampling import parse_sampling
from shared.errors import InvalidRequestError
from shared.messages import Message, TextPart
from shared.request import GenerateRequest, Priority, ReasoningOptions

_MAX_SESSION_LENGTH = 200
_BYTES_PER_TOKEN = 4  # roughly, for a figure that stands only until the prompt is tokenised


def parse_request(body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False) -> Parsed:
    """`headers` has lower-case names. `counting` is for `count_tokens`, whose body needs no `max_tokens`.

    Raises `InvalidRequestError` naming the field.
    """
    body, size_bytes = fields.body_object(body)
    with fields.named(_in_dots):
        return _parse(body, headers, request_id=request_id, counting=counting, size_bytes=size_bytes)


def _in_dots(path: Sequence[fields.Step]) -> str:
    return ".".join(map(str, path))


def _parse(
    body: Mapping[str, Any], headers: Mapping[str, str], *, request_id: str, counting: bool, size_bytes: int
) -> Parsed:
    _refuse_thread(body.get("thread"))
    model = fields.name(body.get("model"), "model")
    max_tokens = fields.integer(body.get("max_tokens"), "max_tokens", low=0)
    if max_tokens is None and not counting:
        fields.refuse("Field required", "max_tokens")
    with fields.within("messages"):
        messages, added = parse_messages(body.get("messages"))
    with fields.within("tools"):
        tools = parse_tools(body.get("tools")).with_added(added)
    with fields.within("tool_choice"):
        choice = parse_tool_choice(body.get("tool_choice"), tools)
    with fields.within("system"):
        system = parse_system(body.get("system"))
    missing = unavailable(tools, fields.optional_sequence(body.get("mcp_servers"), "mcp_servers"))
    output_config = fields.optional_mapping(body.get("output_config"), "output_config")
    schema = _parse_format(body, output_config)
    effort = fields.optional_string(output_config.get("effort"), "output_config", "effort")
    with fields.within("stop_sequences"):
        stop = fields.stop_sequences(fields.optional_sequence(body.get("stop_sequences")))
    request = GenerateRequest(
        id=request_id,
        model=model,
        messages=system + unavailable_note(missing) + messages,
        tools=tuple(tools.callable.values()),
        tool_choice=choice,
        # To fill the cache takes one token, too; `render` keeps it to itself.
        sampling=parse_sampling(body, max_tokens=1 if max_tokens == 0 else max_tokens, stop=stop),
        reasoning=_parse_reasoning(body.get("thinking"), effort),
        response_schema=schema,
        priority=asked_priority(headers) or _priority(body, headers, messages, schema),
        session=_session(headers),
        user=_user(body.get("metadata")),
    )
    return Parsed(
        request=request,
        stream=fields.boolean(body.get("stream"), "stream"),
        reply=MessageReply(
            estimated_tokens=1 + size_bytes // _BYTES_PER_TOKEN,
            is_warming=max_tokens == 0,
            search=demanded_search(tools, body.get("tool_choice"), messages),
            safeguards=asked_safeguards(body.get("safeguards")),
            breakpoints=asked_breakpoints(body),
        ),
        is_repeatable=is_retry(headers) or bool(headers.get(HEADER_SESSION)),
        warnings=tuple(_warnings(missing, effort)),
    )


def _warnings(missing: Sequence[str], effort: str) -> Iterator[str]:
    if missing:
        yield f"not available here: {', '.join(missing)}"
    if effort and effort not in EFFORTS:
        yield f"output_config.effort: '{effort[:100]}' is none of {', '.join(EFFORTS)} and is left out"


def _refuse_thread(value: Any) -> None:
    """Threads leave the conversation with the server, and we keep none. On this code the SDKs send it whole."""
    if value is not None:
        raise InvalidRequestError(
            "thread: conversations are not kept here, send the whole conversation without `thread`",
            param="thread",
            error_code="thread_unsupported_request",
        )


def _parse_reasoning(value: Any, wanted: str) -> ReasoningOptions:
    """A type we do not know counts as adaptive: it is a way of thinking that a newer client asks for. So does an effort
    that we do not know count as none given. Who says nothing of thinking gets none in this API, and has not asked."""
    effort = EFFORTS.get(wanted, "")
    if value is None:
        return ReasoningOptions(enabled=False, effort=effort, is_asked=False)
    thinking = fields.mapping(value, "thinking")
    kind = fields.string(thinking.get("type"), "thinking", "type")
    budget = fields.integer(thinking.get("budget_tokens"), "thinking", "budget_tokens", low=1)
    return ReasoningOptions(enabled=THINKING.get(kind), budget_tokens=budget, effort=effort)


def _parse_format(body: Mapping[str, Any], output_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """`output_config.format`, or its older place `output_format`."""
    at: tuple[str, ...] = ("output_config", "format")
    value = output_config.get("format")
    if value is None:
        at, value = ("output_format",), body.get("output_format")
    if value is None:
        return None
    with fields.within(*at):
        wanted = fields.mapping(value)
        if fields.string(wanted.get("type"), "type") != "json_schema":
            fields.refuse("Input should be 'json_schema'", "type")
        return dict(fields.mapping(wanted.get("schema"), "schema"))


def _priority(
    body: Mapping[str, Any], headers: Mapping[str, str], messages: tuple[Message, ...], schema: dict[str, Any] | None
) -> Priority:
    """The main conversation, then subagents, then session titles (no tools and a schema) and prompt suggestions."""
    is_title = schema is not None and body.get("tools") == []
    if is_title or _is_suggestion(messages):
        return "side"
    return "subagent" if headers.get(HEADER_AGENT) else "interactive"


def _is_suggestion(messages: tuple[Message, ...]) -> bool:
    last = next((m for m in reversed(messages) if m.role == "user"), None)
    texts = (part.text for part in last.parts if isinstance(part, TextPart)) if last else ()
    return any(text.lstrip().startswith(SUGGESTION_PREFIX) for text in texts)


def _session(headers: Mapping[str, str]) -> str:
    ids = (headers.get(HEADER_SESSION, ""), headers.get(HEADER_AGENT, ""))
    return "/".join(i for i in ids if i)[:_MAX_SESSION_LENGTH]


def _user(metadata: Any) -> str:
    """Whatever its type: it is only a hint."""
    name = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    return name[:_MAX_SESSION_LENGTH] if isinstance(name, str) else ""
