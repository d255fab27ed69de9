"""A Chat Completions body -> `GenerateRequest`. Fields that mean nothing here are accepted and ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects import fields
from gateway.dialects.base import Parsed
from gateway.dialects.openai_chat.content import parse_messages
from gateway.dialects.openai_chat.render import ChatReply
from gateway.dialects.openai_chat.schema import (
    EFFORTS,
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    SESSION_HEADERS,
    TEMPLATE_SWITCHES,
)
from gateway.dialects.priority import asked_priority
from gateway.dialects.retries import is_retry
from gateway.dialects.sampling import parse_sampling
from shared.request import GenerateRequest, Priority, ReasoningOptions, ToolChoice, ToolDefinition

_MAX_SESSION_LENGTH = 200


def parse_request(body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False) -> Parsed:
    """`headers` has lower-case names. Nothing is required only for generating, so `counting` changes nothing.

    Raises `InvalidRequestError` naming the field.
    """
    body, _ = fields.body_object(body)
    model = fields.name(body.get("model"), "model")
    top_logprobs = _parse_logprobs(body)
    tools, dropped = _parse_tools(body)
    tool_choice, tools = _parse_tool_choice(body, tools, has_dropped=bool(dropped))
    request = GenerateRequest(
        id=request_id,
        model=model,
        messages=parse_messages(body.get("messages")),
        tools=tools,
        tool_choice=tool_choice,
        sampling=parse_sampling(
            body, max_tokens=_parse_max_tokens(body), stop=_parse_stop(body.get("stop")), top_logprobs=top_logprobs
        ),
        reasoning=_parse_reasoning(body),
        response_schema=_parse_response_format(body.get("response_format")),
        priority=asked_priority(headers) or _priority(body),
        session=_session(body, headers),
    )
    stream_options = fields.optional_mapping(body.get("stream_options"), "stream_options")
    include_usage = fields.boolean(stream_options.get("include_usage"), "stream_options.include_usage")
    return Parsed(
        request=request,
        stream=fields.boolean(body.get("stream"), "stream"),
        reply=ChatReply(
            include_usage=include_usage, logprobs=top_logprobs is not None, functions=_uses_functions(body)
        ),
        is_repeatable=is_retry(headers),
        choices=_parse_choices(body.get("n")),
        warnings=(f"not available here: {', '.join(dropped)}",) if dropped else (),
    )


def _parse_choices(value: Any) -> int:
    choices = fields.integer(value, "n", low=1) or 1
    if choices > MAX_CHOICES:
        fields.refuse("n", f"Input should be less than or equal to {MAX_CHOICES}")
    return choices


def _uses_functions(body: Mapping[str, Any]) -> bool:
    """Whether the client knows only the API's first form of tools, one `function_call` an answer."""
    return body.get("functions") is not None and body.get("tools") is None


def _parse_max_tokens(body: Mapping[str, Any]) -> int | None:
    """-1 is how clients of other local servers ask for no limit."""
    key = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    if body.get(key) == -1:
        return None
    return fields.integer(body.get(key), key, low=1)


def _parse_stop(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (fields.name(value, "stop"),)
    return fields.stop_sequences(fields.optional_sequence(value, "stop"), "stop", "stop[{}]")


def _parse_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted = fields.boolean(body.get("logprobs"), "logprobs")
    count = fields.integer(body.get("top_logprobs"), "top_logprobs", low=0)
    if count is not None and count > MAX_TOP_LOGPROBS:
        fields.refuse("top_logprobs", f"Input should be less than or equal to {MAX_TOP_LOGPROBS}")
    if count and not wanted:
        fields.refuse("top_logprobs", "needs `logprobs` to be true")
    return (count or 0) if wanted else None


def _parse_tools(body: Mapping[str, Any]) -> tuple[tuple[ToolDefinition, ...], tuple[str, ...]]:
    """(`tools`, else `functions`; the names of tools that are no functions, which models here cannot call)."""
    tools: dict[str, ToolDefinition] = {}
    dropped: list[str] = []
    key = "functions" if _uses_functions(body) else "tools"
    for index, item in enumerate(fields.optional_sequence(body.get(key), key)):
        at = f"{key}[{index}]"
        tool = fields.mapping(item, at)
        if key == "tools":
            kind = fields.string(tool.get("type"), f"{at}.type")
            if kind != "function":
                named = tool.get(kind)
                name = named.get("name") if isinstance(named, dict) else None
                dropped.append(name if isinstance(name, str) else kind)
                continue
            at = f"{at}.function"
            tool = fields.mapping(tool.get("function"), at)
        definition = ToolDefinition(
            name=fields.name(tool.get("name"), f"{at}.name"),
            description=fields.optional_string(tool.get("description"), f"{at}.description"),
            parameters=dict(fields.optional_mapping(tool.get("parameters"), f"{at}.parameters")),
            strict=fields.boolean(tool.get("strict"), f"{at}.strict"),
        )
        if definition.name in tools:
            fields.refuse(f"{at}.name", f"function names must be unique, {definition.name!r} is used twice")
        tools[definition.name] = definition
    return tuple(tools.values()), tuple(dropped)


def _parse_tool_choice(
    body: Mapping[str, Any], tools: tuple[ToolDefinition, ...], *, has_dropped: bool
) -> tuple[ToolChoice, tuple[ToolDefinition, ...]]:
    """(the choice, the tools it leaves). What can only be met by a tool that was dropped is not demanded."""
    at = "function_call" if _uses_functions(body) else "tool_choice"
    parallel = fields.boolean(body.get("parallel_tool_calls"), "parallel_tool_calls", default=True)
    parallel = parallel and not _uses_functions(body)
    value = body.get(at)
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        allowed = fields.mapping(value.get("allowed_tools"), f"{at}.allowed_tools")
        tools = _allowed(allowed.get("tools"), tools, f"{at}.allowed_tools.tools")
        at, value = f"{at}.allowed_tools.mode", allowed.get("mode")
    if isinstance(value, dict) and value.get("type") == "custom" and has_dropped:
        return ToolChoice(parallel=parallel), tools
    if isinstance(value, dict):
        return _named_choice(value, tools, at, parallel=parallel), tools
    match value:
        case None | "auto":
            return ToolChoice(parallel=parallel), tools
        case "none":
            return ToolChoice(mode="none"), tools
        case "required" if tools:
            return ToolChoice(mode="any", parallel=parallel), tools
        case "required" if has_dropped:
            return ToolChoice(parallel=parallel), tools
        case "required":
            fields.refuse(at, "may be 'required' only with function tools")
    fields.refuse(at, "Input should be 'none', 'auto', 'required' or a tool to call")


def _named_choice(
    choice: Mapping[str, Any], tools: tuple[ToolDefinition, ...], at: str, *, parallel: bool
) -> ToolChoice:
    if at == "tool_choice":
        if fields.string(choice.get("type"), f"{at}.type") != "function":
            fields.refuse(f"{at}.type", "Input should be 'function' or 'allowed_tools'")
        at = f"{at}.function"
        choice = fields.mapping(choice.get("function"), at)
    name = fields.name(choice.get("name"), f"{at}.name")
    if all(tool.name != name for tool in tools):
        fields.refuse(f"{at}.name", f"there is no function {name!r} among the tools")
    return ToolChoice(mode="tool", name=name, parallel=parallel)


def _allowed(value: Any, tools: tuple[ToolDefinition, ...], at: str) -> tuple[ToolDefinition, ...]:
    names: set[str] = set()
    for index, item in enumerate(fields.sequence(value, at)):
        tool = fields.mapping(item, f"{at}[{index}]")
        if tool.get("type") == "function":
            function = fields.mapping(tool.get("function"), f"{at}[{index}].function")
            names.add(fields.name(function.get("name"), f"{at}[{index}].function.name"))
    return tuple(tool for tool in tools if tool.name in names)


def _parse_reasoning(body: Mapping[str, Any]) -> ReasoningOptions:
    """`reasoning_effort`, and the switches that clients of local servers pass to the chat template."""
    wanted = fields.optional_string(body.get("reasoning_effort"), "reasoning_effort")
    effort = EFFORTS.get(wanted, "")
    at = "chat_template_kwargs"
    template = fields.optional_mapping(body.get(at), at)
    for switch in TEMPLATE_SWITCHES:
        if template.get(switch) is not None:
            return ReasoningOptions(enabled=fields.boolean(template[switch], f"{at}.{switch}"), effort=effort)
    return ReasoningOptions(enabled=False if wanted == "none" else None, effort=effort)


def _parse_response_format(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    at = "response_format"
    wanted = fields.mapping(value, at)
    match fields.string(wanted.get("type"), f"{at}.type"):
        case "text":
            return None
        case "json_object" | "json_schema" if wanted.get("schema") is not None:
            # As other local servers and vendors spell it.
            return dict(fields.mapping(wanted["schema"], f"{at}.schema"))
        case "json_object":
            return {}
        case "json_schema":
            outer = fields.mapping(wanted.get("json_schema"), f"{at}.json_schema")
            return dict(fields.optional_mapping(outer.get("schema"), f"{at}.json_schema.schema"))
    fields.refuse(f"{at}.type", "Input should be 'text', 'json_object' or 'json_schema'")


def _priority(body: Mapping[str, Any]) -> Priority:
    """The API's `service_tier` "flex" is for what may take its time."""
    return "batch" if body.get("service_tier") == "flex" else "interactive"


def _session(body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    key = fields.optional_string(body.get("prompt_cache_key"), "prompt_cache_key")
    named = (headers.get(header, "") for header in SESSION_HEADERS)
    return next((value for value in (*named, key) if value), "")[:_MAX_SESSION_LENGTH]
