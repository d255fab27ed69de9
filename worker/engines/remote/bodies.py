"""What a server is asked: the body of a request, in its own words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared import exact
from shared.errors import InvalidRequestError
from shared.request import GenerateRequest, SamplingParams, ToolChoice
from worker.engines.remote.messages import MessageWriter, write_tools
from worker.engines.remote.profiles import Profile

# Our name -> that of OpenAI's API and of those who extend it.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")


def chat_body(request: GenerateRequest, model: str, profile: Profile, writer: MessageWriter) -> dict[str, Any]:
    """Of `/chat/completions`. Raises `UnsupportedContentError`, `InvalidRequestError`."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": writer.write(request.messages, request.tools),
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(sampling),
    }
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.repetition_penalty is not None:
        body[profile.repetition_penalty] = sampling.repetition_penalty
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    if request.tools and writer.takes_tools:
        body["tools"] = write_tools(request.tools)
        body |= _choice(request.tool_choice)
    if request.response_schema is not None:
        schema = {"name": "answer", "schema": request.response_schema or {"type": "object"}}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body | _reasoning(request, profile)


def _sampling(sampling: SamplingParams) -> dict[str, Any]:
    return {name: value for name in _SAMPLING if (value := getattr(sampling, name)) is not None}


def _choice(choice: ToolChoice) -> dict[str, Any]:
    modes: Mapping[str, Any] = {
        "any": "required",
        "none": "none",
        "tool": {"type": "function", "function": {"name": choice.name}},
    }
    rendered = {"tool_choice": modes[choice.mode]} if choice.mode in modes else {}
    return rendered if choice.parallel else {**rendered, "parallel_tool_calls": False}


def _reasoning(request: GenerateRequest, profile: Profile) -> dict[str, Any]:
    """What is said of reasoning, and the client's own variables, to servers that read them."""
    options, body = request.reasoning, dict[str, Any]()
    if options.effort:
        body["reasoning_effort"] = options.effort
    variables = dict(request.template_variables)
    if options.enabled is not None:
        variables["enable_thinking"] = options.enabled
    if variables and profile.takes_template_variables:
        body["chat_template_kwargs"] = variables
    if options.enabled is not None and profile.thinking:
        body[profile.thinking] = options.enabled
    return body


def ollama_body(request: GenerateRequest, model: str, context_tokens: int, writer: MessageWriter) -> dict[str, Any]:
    """Of `/api/chat`. `num_ctx` is the same in every request: another would load the model anew. Nothing of the prompt
    is cut in silence."""
    sampling = request.sampling
    if request.tools and request.tool_choice.mode in ("any", "tool"):
        raise InvalidRequestError("Ollama cannot be made to call a tool", param="tool_choice")
    if sampling.logit_bias:
        raise InvalidRequestError("Ollama takes no logit_bias", param="logit_bias")
    options: dict[str, Any] = {"num_ctx": context_tokens, **_sampling(sampling)}
    if sampling.max_tokens is not None:
        options["num_predict"] = sampling.max_tokens
    if sampling.repetition_penalty is not None:
        options["repeat_penalty"] = sampling.repetition_penalty
    body: dict[str, Any] = {
        "model": model,
        "messages": [_ollama_message(message) for message in writer.write(request.messages, request.tools)],
        "stream": True,
        "options": options,
        "truncate": False,
        "shift": False,
    }
    if request.tools and writer.takes_tools and request.tool_choice.mode != "none":
        body["tools"] = write_tools(request.tools)
    if request.response_schema is not None:
        body["format"] = request.response_schema or "json"
    if request.reasoning.enabled is not None:
        body["think"] = request.reasoning.enabled
    return body


def _ollama_message(message: dict[str, Any]) -> dict[str, Any]:
    """Calls have their arguments as an object, images stand beside the text."""
    told = dict(message)
    if calls := told.get("tool_calls"):
        told["tool_calls"] = [{"function": _ollama_call(call["function"])} for call in calls]
    told.pop("tool_call_id", None)
    if (thought := told.pop("reasoning_content", None)) is not None:
        told["thinking"] = thought
    if isinstance(told["content"], list):
        parts = told["content"]
        told["content"] = "\n".join(part["text"] for part in parts if part["type"] == "text")
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        told["images"] = [url.rpartition("base64,")[2] for url in urls]
    return told


def _ollama_call(function: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = exact.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = {}
    return {"name": function["name"], "arguments": arguments if isinstance(arguments, dict) else {}}
