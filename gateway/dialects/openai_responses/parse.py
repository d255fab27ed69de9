"""A Responses body -> `GenerateRequest`. Fields that mean nothing here are accepted and ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.dialects import fields
from gateway.dialects.base import Parsed
from gateway.dialects.openai.budget import parse_budget
from gateway.dialects.openai.effort import EFFORTS, parse_effort
from gateway.dialects.openai.json_schema import check_schema
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.openai.schema import MAX_TOP_LOGPROBS
from gateway.dialects.openai.session import cache_key_of, session_of, user_of
from gateway.dialects.openai_responses.choice import parse_tool_choice
from gateway.dialects.openai_responses.compaction import request_message
from gateway.dialects.openai_responses.items import ItemReader
from gateway.dialects.openai_responses.keeping import CONTINUED, CONVERSED, PREVIOUS, kept_items
from gateway.dialects.openai_responses.render import ResponsesReply
from gateway.dialects.openai_responses.schema import (
    COMPACTING,
    INCLUDE_LOGPROBS,
    INCLUDE_REASONING,
    SUBAGENT_HEADER,
)
from gateway.dialects.openai_responses.tools import Toolbox
from gateway.dialects.priority import asked_priority
from gateway.dialects.retries import is_retry
from gateway.dialects.sampling import parse_sampling
from shared.messages import Message, TextPart
from shared.request import GenerateRequest, Priority, ReasoningOptions, ToolChoice

# What the answer repeats of the request, with what stands there where it says nothing.
_ECHOED: Final[Mapping[str, Any]] = {
    "background": False,
    "conversation": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_UNSERVED: Final = {
    PREVIOUS: "it could not be found",
    "conversation": "it could not be found",
    "prompt": "prompts are not kept here; send the whole conversation as `input`",
}


def parse_request(body: Any, headers: Mapping[str, str], *, request_id: str) -> Parsed:
    """`headers` has lower-case names. Raises `InvalidRequestError` naming the field."""
    body, _ = fields.body_object(body)
    with fields.named(in_brackets):
        return _parse(body, headers, request_id=request_id)


def _parse(body: Mapping[str, Any], headers: Mapping[str, str], *, request_id: str) -> Parsed:
    model = fields.name(body.get("model"), "model")
    _refuse_unserved(body)
    box = Toolbox()
    with fields.within("tools"):
        box.add(body.get("tools"))
    reader = ItemReader(box)
    messages = _parse_messages(body, reader)
    choice, tools = _parse_choice(body, box, wants_summary=reader.wants_summary)
    reasoning = fields.optional_mapping(body.get("reasoning"), "reasoning")
    include = _parse_include(body.get("include"))
    top_logprobs = _parse_top_logprobs(body, include)
    request = GenerateRequest(
        id=request_id,
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        sampling=parse_sampling(
            body,
            max_tokens=fields.integer(body.get("max_output_tokens"), "max_output_tokens", low=1),
            stop=_parse_stop(body.get("stop")),
            top_logprobs=top_logprobs,
        ),
        reasoning=_parse_reasoning(body, reasoning),
        response_schema=_parse_format(body),
        priority=asked_priority(headers) or _priority(body, headers, has_tools=bool(tools)),
        session=session_of(headers),
        cache_key=cache_key_of(body),
        user=user_of(body),
    )
    is_stored = fields.boolean(body.get("store"), "store", default=True)
    return Parsed(
        request=request,
        stream=fields.boolean(body.get("stream"), "stream"),
        reply=ResponsesReply(
            echo=_echo(body),
            origins=box.origins,
            is_summary=reader.wants_summary,
            shows_summary=_asks_summary(reasoning),
            wraps_reasoning=not is_stored or INCLUDE_REASONING in include,
            logprobs=top_logprobs is not None,
        ),
        is_repeatable=is_retry(headers) or bool(session_of(headers)),
        warnings=_warnings(reader),
        items=kept_items(body) if is_stored or body.get(CONVERSED) else None,
    )


def _echo(body: Mapping[str, Any]) -> dict[str, Any]:
    echo = {key: body[key] if body.get(key) is not None else default for key, default in _ECHOED.items()}
    conversation = {"id": body[CONVERSED]} if body.get(CONVERSED) else None
    return echo | {PREVIOUS: body.get(CONTINUED), "conversation": conversation}


def _refuse_unserved(body: Mapping[str, Any]) -> None:
    for key, problem in _UNSERVED.items():
        if body.get(key) is not None:
            fields.refuse(problem, key)
    fields.boolean(body.get("background"), "background")  # who runs it there has read it before


def _parse_messages(body: Mapping[str, Any], reader: ItemReader) -> tuple[Message, ...]:
    instructions = body.get("instructions")
    with fields.within("instructions"):
        texts = reader.read(instructions) if isinstance(instructions, list) else _text(instructions)
    with fields.within("input"):
        items = reader.read(body.get("input"))
        if not items and not texts:
            fields.refuse("at least one message is required")
    asked = (request_message(),) if reader.wants_summary else ()
    return (*texts, *items, *asked)


def _text(value: Any) -> tuple[Message, ...]:
    text = fields.optional_string(value)
    return (Message(role="system", parts=(TextPart(text=text),)),) if text else ()


def _parse_choice(body: Mapping[str, Any], box: Toolbox, *, wants_summary: bool) -> tuple[ToolChoice, Any]:
    """A summary is text; the tools stay in the prompt, whose beginning is in the cache."""
    parallel = fields.boolean(body.get("parallel_tool_calls"), "parallel_tool_calls", default=True)
    with fields.within("tool_choice"):
        choice, tools = parse_tool_choice(body.get("tool_choice"), box, parallel=parallel)
    return ToolChoice(mode="none") if wants_summary else choice, tools


def _parse_stop(value: Any) -> tuple[str, ...]:
    with fields.within("stop"):
        if isinstance(value, str):
            return (fields.name(value),)
        return fields.stop_sequences(fields.optional_sequence(value))


def _parse_include(value: Any) -> frozenset[str]:
    with fields.within("include"):
        return frozenset(fields.each(fields.optional_sequence(value), fields.string))


def _parse_top_logprobs(body: Mapping[str, Any], include: frozenset[str]) -> int | None:
    count = fields.integer(body.get("top_logprobs"), "top_logprobs", low=0)
    if count is not None and count > MAX_TOP_LOGPROBS:
        fields.refuse(f"Input should be less than or equal to {MAX_TOP_LOGPROBS}", "top_logprobs")
    return (count or 0) if count or INCLUDE_LOGPROBS in include else None


def _parse_reasoning(body: Mapping[str, Any], reasoning: Mapping[str, Any]) -> ReasoningOptions:
    wanted = parse_effort(reasoning.get("effort"), "reasoning", "effort")
    return ReasoningOptions(
        enabled=False if wanted == "none" else None,
        budget_tokens=parse_budget(body, {}),
        effort=EFFORTS.get(wanted, ""),
    )


def _asks_summary(reasoning: Mapping[str, Any]) -> bool:
    return any(reasoning.get(key) not in (None, "none") for key in ("summary", "generate_summary"))


def _parse_format(body: Mapping[str, Any]) -> dict[str, Any] | None:
    text = fields.optional_mapping(body.get("text"), "text")
    with fields.within("text", "format"):
        wanted = fields.optional_mapping(text.get("format"))
        match fields.optional_string(wanted.get("type"), "type"):
            case "" | "text":
                return None
            case "json_object":
                with fields.within("schema"):
                    return check_schema(fields.optional_mapping(wanted.get("schema")))
            case "json_schema":
                inner = wanted.get("json_schema")
                outer = inner if isinstance(inner, dict) else wanted
                with fields.within("schema"):
                    return check_schema(fields.optional_mapping(outer.get("schema")))
        fields.refuse("Input should be 'text', 'json_object' or 'json_schema'", "type")


def _priority(body: Mapping[str, Any], headers: Mapping[str, str], *, has_tools: bool) -> Priority:
    """An agent's request without tools is a title or a summary: its prompt has another head, and must not push out
    the conversation whose id it carries."""
    if body.get("service_tier") == "flex":
        return "batch"
    agent = headers.get(SUBAGENT_HEADER, "")
    if agent == COMPACTING or (session_of(headers) and not has_tools):
        return "side"
    return "subagent" if agent else "interactive"


def _warnings(reader: ItemReader) -> tuple[str, ...]:
    told = {
        "not available here": reader.box.dropped,
        "left out": reader.left_out,
        "shown to the model and not enforced: the grammar of": reader.box.unenforced,
    }
    return tuple(f"{what}: {', '.join(names)}" if names else "" for what, names in told.items() if names)
