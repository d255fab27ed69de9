"""What a server's stream says, piece by piece, whatever its shape: pure.

OpenAI's chunks (https://platform.openai.com/docs/api-reference/chat-streaming) with the names that servers give to
reasoning, and Ollama's lines (https://github.com/ollama/ollama/blob/main/docs/api.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shared.events import TokenLogprob
from shared.http_client import AskError

_MOST_TOKENS = 1 << 31  # no server counts so many: a count above it is none
_REASONING = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPiece:
    """Of the call number `index`, named `id` by its server; its name comes once, its arguments in parts."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """Tokens as the server counts them; None where it does not."""

    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`finish` is the server's word for why it ended, empty while it has not."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str = ""
    reported: Reported | None = None


@contextmanager
def reading() -> Iterator[None]:
    """Raises `AskError` where a value has another shape than the reader in the block takes it for."""
    try:
        yield
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise AskError(f"what it says cannot be read: {error}", has_answered=True) from error


def parse_chat(data: Mapping[str, Any]) -> Piece:
    """A chunk of `/chat/completions`."""
    choices = data.get("choices") or ()
    choice = choices[0] if choices else {}
    delta = choice.get("delta") or choice.get("message") or {}
    return Piece(
        text=_text(delta.get("content")),
        reasoning=next((str(delta[name]) for name in _REASONING if isinstance(delta.get(name), str)), ""),
        calls=tuple(_call(call, index) for index, call in enumerate(delta.get("tool_calls") or ())),
        logprobs=tuple(map(_logprob, (choice.get("logprobs") or {}).get("content") or ())),
        finish=str(choice.get("finish_reason") or ""),
        reported=_usage(data["usage"]) if isinstance(data.get("usage"), dict) else None,
    )


def _text(content: Any) -> str:
    """Some servers write a list of parts. Raises `TypeError` for what is no text."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError(f"a text is {type(content).__name__}")
    return content or ""


def _call(call: Mapping[str, Any], position: int) -> CallPiece:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    index = call.get("index")
    return CallPiece(
        index=position if index is None else int(index),
        id=str(call.get("id") or ""),
        name=str(function.get("name") or ""),
        arguments=arguments if isinstance(arguments, str) else "" if arguments is None else _json(arguments),
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _logprob(data: Mapping[str, Any]) -> TokenLogprob:
    return TokenLogprob(
        token=str(data.get("token", "")),
        logprob=float(data.get("logprob") or 0.0),
        token_bytes=bytes(data.get("bytes") or ()),
        top=tuple(map(_logprob, data.get("top_logprobs") or ())),
    )


def _usage(usage: Mapping[str, Any]) -> Reported:
    return Reported(
        input_tokens=count_of(usage.get("prompt_tokens")),
        cached_tokens=count_of((usage.get("prompt_tokens_details") or {}).get("cached_tokens")),
        output_tokens=count_of(usage.get("completion_tokens")),
        reasoning_tokens=count_of((usage.get("completion_tokens_details") or {}).get("reasoning_tokens")),
    )


def count_of(value: Any) -> int | None:
    """None for what cannot be a count of tokens."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value <= _MOST_TOKENS else None


def parse_ollama(data: Mapping[str, Any]) -> Piece:
    """A line of `/api/chat`. Its count of the prompt leaves cached tokens out in some releases: it is not used."""
    message = data.get("message") or {}
    is_done = bool(data.get("done"))
    return Piece(
        text=_text(message.get("content")),
        reasoning=_text(message.get("thinking")),
        calls=tuple(_call(call, index) for index, call in enumerate(message.get("tool_calls") or ())),
        finish=str(data.get("done_reason") or "stop") if is_done else "",
        reported=Reported(output_tokens=count_of(data.get("eval_count"))) if is_done else None,
    )
