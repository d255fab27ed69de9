"""Anthropic's Messages API as a server's: what is asked of it, and what its stream says. Pure, but for documents.

https://docs.anthropic.com/en/api/messages. Thinking is not asked for: what was thought comes back only with signatures,
which are its own. The marks of its prompt cache are set where a conversation grows: behind the tools and the system
text, and behind the last message, so that a turn finds what the one before has left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared import exact
from shared.errors import InvalidRequestError, UnsupportedContentError
from shared.messages import ImagePart, Message, Part, ResultPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, ToolChoice, ToolDefinition
from worker.engines.remote.messages import text_of_parts
from worker.engines.remote.pieces import CallPiece, Piece, Reported, count_of

HEADERS = {"anthropic-version": "2023-06-01"}
MOST_TOKENS = 8192  # of an answer for which its client sets no bound: the API wants one
_CACHED = {"cache_control": {"type": "ephemeral"}}
_FINISHES = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length"}
_FINISHES |= {"refusal": "content_filter", "model_context_window_exceeded": "length", "pause_turn": "stop"}


def anthropic_body(request: GenerateRequest, model: str, *, images: bool) -> dict[str, Any]:
    """Raises `InvalidRequestError` for what the API has no place for, `UnsupportedContentError`."""
    if request.response_schema is not None:
        raise InvalidRequestError("this server takes no schema for its answer", param="response_format")
    if request.sampling.top_logprobs is not None or request.sampling.logit_bias:
        raise InvalidRequestError("this server has no logprobs and no logit_bias")
    sampling = request.sampling
    body: dict[str, Any] = {"model": model, "stream": True, "max_tokens": sampling.max_tokens or MOST_TOKENS}
    if system := [part for message in request.messages if message.role == "system" for part in message.parts]:
        body["system"] = [{"type": "text", "text": text_of_parts(system), **_CACHED}]
    body["messages"] = _merged(_message(each, images) for each in request.messages if each.role != "system")
    if body["messages"] and isinstance(body["messages"][-1]["content"], list):
        body["messages"][-1]["content"][-1] |= _CACHED
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tools"][-1] |= _CACHED
        body["tool_choice"] = _choice(request.tool_choice)
    if sampling.temperature is not None:
        body["temperature"] = min(sampling.temperature, 1.0)
    elif sampling.top_p is not None:  # it takes one of the two
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    return body


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    schema = tool.parameters or {"type": "object", "properties": {}}
    return {"name": tool.name, "description": tool.description, "input_schema": schema}


def _choice(choice: ToolChoice) -> dict[str, Any]:
    named = {"name": choice.name} if choice.mode == "tool" else {}
    alone = {} if choice.parallel or choice.mode == "none" else {"disable_parallel_tool_use": True}
    return {"type": choice.mode, **named, **alone}


def _message(message: Message, images: bool) -> dict[str, Any]:
    role = "assistant" if message.role == "assistant" else "user"
    return {"role": role, "content": [block for part in message.parts for block in _blocks(part, images)]}


def _merged(messages: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role are one message; those without anything are left out."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1]["content"] += message["content"]
        elif message["content"]:
            merged.append(message)
    return merged


def _blocks(part: Part | ResultPart, images: bool) -> Iterator[dict[str, Any]]:
    match part:
        case ImagePart():
            if not images:
                raise UnsupportedContentError("this server's model does not read images")
            yield {"type": "image", "source": _source(part)}
        case ToolCallPart():
            yield {"type": "tool_use", "id": part.id, "name": part.name, "input": _arguments(part.arguments)}
        case ToolResultPart():
            content = [block for each in part.parts for block in _blocks(each, images)]
            error = {"is_error": True} if part.is_error else {}
            yield {"type": "tool_result", "tool_use_id": part.call_id, "content": content, **error}
        case _:
            if text := text_of_parts((part,)):  # an empty text is refused, and reasoning has no place
                yield {"type": "text", "text": text}


def _source(part: ImagePart) -> dict[str, Any]:
    if part.data:
        return {"type": "base64", "media_type": part.media_type, "data": part.data}
    return {"type": "url", "url": part.url}


def _arguments(text: str) -> Any:
    try:
        value = exact.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def parse_anthropic(data: Mapping[str, Any]) -> Piece:
    """An event of the stream."""
    match data.get("type"):
        case "message_start":
            return Piece(reported=usage_of((data.get("message") or {}).get("usage") or {}))
        case "content_block_start":
            block = data.get("content_block") or {}
            if block.get("type") == "tool_use":
                return Piece(calls=(CallPiece(index=int(data["index"]), name=str(block.get("name", ""))),))
            return Piece(text=str(block.get("text") or ""))
        case "content_block_delta":
            return _delta(int(data["index"]), data.get("delta") or {})
        case "message_delta":
            reason = str((data.get("delta") or {}).get("stop_reason") or "")
            told = Reported(output_tokens=count_of((data.get("usage") or {}).get("output_tokens")))
            return Piece(finish=_FINISHES.get(reason, reason), reported=told)
        case _:
            return Piece()


def _delta(index: int, delta: Mapping[str, Any]) -> Piece:
    if delta.get("type") == "input_json_delta":
        return Piece(calls=(CallPiece(index=index, arguments=str(delta.get("partial_json") or "")),))
    return Piece(text=str(delta.get("text") or ""), reasoning=str(delta.get("thinking") or ""))


def usage_of(usage: Mapping[str, Any]) -> Reported:
    """The API counts what is cached apart. Nothing is known where one of its counts cannot be."""
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    counts = [count_of(usage.get(name) or 0) for name in names]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return Reported()
    return Reported(input_tokens=count_of(sum(known)) or None, cached_tokens=counts[1])
