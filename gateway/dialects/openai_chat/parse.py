"""A Chat Completions body -> `GenerateRequest`. Fields that mean nothing here are accepted and ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.dialects import fields
from gateway.dialects.base import Parsed
from gateway.dialects.openai.budget import parse_budget
from gateway.dialects.openai.choice import named_choice, worded_choice
from gateway.dialects.openai.effort import EFFORTS, parse_effort
from gateway.dialects.openai.form import parse_form
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.openai.schema import MAX_TOP_LOGPROBS
from gateway.dialects.openai.session import cache_key_of, session_of, user_of
from gateway.dialects.openai.streaming import parse_streaming
from gateway.dialects.openai_chat.content import parse_messages
from gateway.dialects.openai_chat.options import parse_echoed, parse_unheeded, priority_of
from gateway.dialects.openai_chat.render import ChatReply
from gateway.dialects.openai_chat.schema import (
    MAX_CHOICES,
    MAX_TEMPLATE_BYTES,
    MAX_TEMPLATE_VARIABLES,
    TEMPLATE_SWITCHES,
)
from gateway.dialects.priority import asked_priority
from gateway.dialects.retries import is_retry
from gateway.dialects.sampling import parse_sampling
from shared.exact import plain
from shared.request import RESERVED_VARIABLES, GenerateRequest, ReasoningOptions, ToolChoice, ToolDefinition


def parse_request(body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False) -> Parsed:
    """`headers` has lower-case names. Nothing is required only for generating, so `counting` changes nothing.

    Raises `InvalidRequestError` naming the field.
    """
    body, _ = fields.body_object(body)
    with fields.named(in_brackets):
        return _parse(body, headers, request_id=request_id)


def _parse(body: Mapping[str, Any], headers: Mapping[str, str], *, request_id: str) -> Parsed:
    model = fields.name(body.get("model"), "model")
    top_logprobs = _parse_logprobs(body)
    template = _parse_template(body)
    tools, dropped = _parse_tools(body)
    tool_choice, tools = _parse_tool_choice(body, tools, has_dropped=bool(dropped))
    with fields.within("messages"):
        messages = parse_messages(body.get("messages"))
    with fields.within("stop"):
        stop = _parse_stop(body.get("stop"))
    form = parse_form(body)
    request = GenerateRequest(
        id=request_id,
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice,
        sampling=parse_sampling(body, max_tokens=_parse_max_tokens(body), stop=stop, top_logprobs=top_logprobs),
        reasoning=_parse_reasoning(body, template),
        response_schema=form.schema,
        response_pattern=form.pattern,
        response_grammar=form.grammar,
        priority=asked_priority(headers) or priority_of(body),
        session=session_of(headers),
        cache_key=cache_key_of(body),
        user=user_of(body),
        template_variables=template,
    )
    stream, include_usage = parse_streaming(body)
    is_stored = fields.boolean(body.get("store"), "store")
    warnings = [f"not available here: {', '.join(dropped)}"] if dropped else []
    return Parsed(
        request=request,
        stream=stream,
        reply=ChatReply(
            include_usage=include_usage,
            logprobs=top_logprobs is not None,
            functions=_uses_functions(body),
            echoed=parse_echoed(body),
            is_stored=is_stored,
        ),
        is_repeatable=is_retry(headers),
        choices=_parse_choices(body.get("n")),
        warnings=(*warnings, *parse_unheeded(body)),
        items=tuple(body["messages"]) if is_stored else None,
    )


def _parse_choices(value: Any) -> int:
    choices = fields.integer(value, "n", low=1) or 1
    if choices > MAX_CHOICES:
        fields.refuse(f"Input should be less than or equal to {MAX_CHOICES}", "n")
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
        return (fields.name(value),)
    return fields.stop_sequences(fields.optional_sequence(value))


def _parse_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted = fields.boolean(body.get("logprobs"), "logprobs")
    count = fields.integer(body.get("top_logprobs"), "top_logprobs", low=0)
    if count is not None and count > MAX_TOP_LOGPROBS:
        fields.refuse(f"Input should be less than or equal to {MAX_TOP_LOGPROBS}", "top_logprobs")
    if count and not wanted:
        fields.refuse("needs `logprobs` to be true", "top_logprobs")
    return (count or 0) if wanted else None


def _parse_tools(body: Mapping[str, Any]) -> tuple[tuple[ToolDefinition, ...], tuple[str, ...]]:
    """(`tools`, else `functions`; the names of tools that are no functions, which models here cannot call)."""
    tools: dict[str, ToolDefinition] = {}
    dropped: list[str] = []

    def take(item: Any) -> None:
        tool = fields.mapping(item)
        if key == "functions":
            _add_function(tools, tool)
        elif (kind := fields.string(tool.get("type"), "type")) == "function":
            with fields.within("function"):
                _add_function(tools, fields.mapping(tool.get("function")))
        else:
            dropped.append(_name_of(tool.get(kind)) or kind)

    key = "functions" if _uses_functions(body) else "tools"
    with fields.within(key):
        fields.each(fields.optional_sequence(body.get(key)), take)
    return tuple(tools.values()), tuple(dropped)


def _name_of(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""


def _add_function(tools: dict[str, ToolDefinition], function: Mapping[str, Any]) -> None:
    definition = ToolDefinition(
        name=fields.name(function.get("name"), "name"),
        description=fields.optional_string(function.get("description"), "description"),
        parameters=dict(fields.optional_mapping(function.get("parameters"), "parameters")),
        strict=fields.boolean(function.get("strict"), "strict"),
    )
    if definition.name in tools:
        fields.refuse(f"function names must be unique, {definition.name!r} is used twice", "name")
    tools[definition.name] = definition


def _parse_tool_choice(
    body: Mapping[str, Any], tools: tuple[ToolDefinition, ...], *, has_dropped: bool
) -> tuple[ToolChoice, tuple[ToolDefinition, ...]]:
    """(the choice, the tools it leaves). What can only be met by a tool that was dropped is not demanded."""
    parallel = fields.boolean(body.get("parallel_tool_calls"), "parallel_tool_calls", default=True)
    if _uses_functions(body):
        with fields.within("function_call"):
            value = body.get("function_call")
            if isinstance(value, dict):
                return named_choice(value, tools, parallel=False), tools
            return worded_choice(value, tools, has_dropped=has_dropped, parallel=False), tools
    with fields.within("tool_choice"):
        value = body.get("tool_choice")
        if not isinstance(value, dict):
            return worded_choice(value, tools, has_dropped=has_dropped, parallel=parallel), tools
        return _typed_choice(value, tools, has_dropped=has_dropped, parallel=parallel)


def _typed_choice(
    choice: Mapping[str, Any], tools: tuple[ToolDefinition, ...], *, has_dropped: bool, parallel: bool
) -> tuple[ToolChoice, tuple[ToolDefinition, ...]]:
    match fields.string(choice.get("type"), "type"):
        case "allowed_tools":
            allowed = fields.mapping(choice.get("allowed_tools"), "allowed_tools")
            with fields.within("allowed_tools", "tools"):
                tools = _allowed(allowed.get("tools"), tools)
            with fields.within("allowed_tools", "mode"):
                mode = worded_choice(allowed.get("mode"), tools, has_dropped=has_dropped, parallel=parallel)
            return mode, tools
        case "custom" if has_dropped:
            return ToolChoice(parallel=parallel), tools
        case "function":
            with fields.within("function"):
                return named_choice(fields.mapping(choice.get("function")), tools, parallel=parallel), tools
    fields.refuse("Input should be 'function' or 'allowed_tools'", "type")


def _allowed(value: Any, tools: tuple[ToolDefinition, ...]) -> tuple[ToolDefinition, ...]:
    def name_of(item: Any) -> str:
        tool = fields.mapping(item)
        if tool.get("type") != "function":
            return ""
        return fields.name(fields.mapping(tool.get("function"), "function").get("name"), "function", "name")

    names = set(fields.each(fields.sequence(value), name_of))
    return tuple(tool for tool in tools if tool.name in names)


def _parse_template(body: Mapping[str, Any]) -> dict[str, Any]:
    """`chat_template_kwargs`: variables of the client's own for the model's chat template."""
    with fields.within("chat_template_kwargs"):
        variables = dict(plain(fields.optional_mapping(body.get("chat_template_kwargs"))))  # programs count with them
        for name in sorted(RESERVED_VARIABLES & variables.keys()):
            fields.refuse("this name is reserved", name)
        if len(variables) > MAX_TEMPLATE_VARIABLES or len(fields.json_text(variables)) > MAX_TEMPLATE_BYTES:
            fields.refuse(f"Input should have at most {MAX_TEMPLATE_VARIABLES} names and {MAX_TEMPLATE_BYTES} bytes")
    return variables


def _parse_reasoning(body: Mapping[str, Any], template: Mapping[str, Any]) -> ReasoningOptions:
    """`reasoning_effort`, and the switches that clients of local servers pass to the chat template. What they tell the
    template itself may be words of its own."""
    wanted = parse_effort(body.get("reasoning_effort"), "reasoning_effort")
    if not wanted and isinstance(template.get("reasoning_effort"), str):
        wanted = template["reasoning_effort"]
    options = ReasoningOptions(budget_tokens=parse_budget(body, template), effort=EFFORTS.get(wanted, ""))
    with fields.within("chat_template_kwargs"):
        for switch in TEMPLATE_SWITCHES:
            if template.get(switch) is not None:
                return replace(options, enabled=fields.boolean(template[switch], switch))
    return replace(options, enabled=False if wanted == "none" else None)
