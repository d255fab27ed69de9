"""What is asked of `/completion`, and what its stream says: pure.

https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md. One thing is not in it: a chunk holds the last
token alone of those that came since the one before. Tokens that end inside a character are held back, and never told;
how many there are is known from the count, and which, from the bytes (`told_tokens`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import GatewayError, InternalError, InvalidRequestError, OverloadedError, PromptTooLongError
from shared.events import TokenLogprob
from shared.request import SamplingParams

_MOST_SPLITS = 64
_PENALISED_TOKENS = 1 << 16  # as far back as penalties look
_STRONGEST = 1e4  # bias or penalty: more changes nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """How the model samples where the request says nothing: what its file says (`general.sampling.*`)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Defaults:
        def number(name: str, default: float) -> float:
            value = values.get(f"general.sampling.{name}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return default
            return float(value)

        return cls(
            temperature=number("temp", 1.0),
            top_p=number("top_p", 1.0),
            top_k=int(number("top_k", 0)),
            min_p=number("min_p", 0.0),
            repetition_penalty=number("penalty_repeat", 1.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form that the answer must have, in the server's own words; empty: none."""

    grammar: str = ""
    json_schema: dict[str, Any] | None = None

    def render(self) -> dict[str, Any]:
        if self.grammar:
            return {"grammar": self.grammar}
        return {} if self.json_schema is None else {"json_schema": self.json_schema}


def render_sampling(sampling: SamplingParams, defaults: Defaults, vocabulary: int) -> dict[str, Any]:
    """The request's parameters over the model's defaults. Raises `InvalidRequestError` for what cannot be used."""
    for token in sampling.logit_bias:
        if not 0 <= token < vocabulary:
            message = f"logit_bias: token {token} is not in the vocabulary of {vocabulary}"
            raise InvalidRequestError(message, param="logit_bias")
    repetition = _given(sampling.repetition_penalty, defaults.repetition_penalty)
    if repetition <= 0:
        raise InvalidRequestError("repetition_penalty must be greater than 0", param="repetition_penalty")
    rendered: dict[str, Any] = {
        "temperature": _given(sampling.temperature, defaults.temperature),
        "top_p": _given(sampling.top_p, defaults.top_p),
        "top_k": int(_given(sampling.top_k, defaults.top_k)),
        "min_p": _given(sampling.min_p, defaults.min_p),
        "repeat_penalty": repetition,
        "repeat_last_n": _PENALISED_TOKENS,
        "presence_penalty": _bounded(sampling.presence_penalty),
        "frequency_penalty": _bounded(sampling.frequency_penalty),
        "logit_bias": [[token, _bounded(bias)] for token, bias in sampling.logit_bias.items()],
    }
    if sampling.seed is not None:
        rendered["seed"] = sampling.seed % (1 << 32)
    if sampling.top_logprobs is not None:
        rendered["n_probs"] = max(1, sampling.top_logprobs)
    return rendered


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _bounded(value: float | None) -> float:
    return min(max(_given(value, 0.0), -_STRONGEST), _STRONGEST)


def render_body(
    prompt: Sequence[int] | Mapping[str, Any],
    *,
    limit: int,
    slot: int,
    sampling: Mapping[str, Any],
    form: Form,
    may_reuse: bool,
) -> dict[str, Any]:
    return {
        "prompt": dict(prompt) if isinstance(prompt, Mapping) else list(prompt),
        "n_predict": limit,
        "id_slot": slot,
        "stream": True,
        "cache_prompt": may_reuse,
        "return_tokens": True,
        "return_progress": True,
        **sampling,
        **form.render(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One event of the stream. `tokens` are those that it tells, the last one with `logprob`; `predicted` counts all so
    far. `progress` is (prompt tokens that are done, all, of these from the cache)."""

    content: str = ""
    tokens: tuple[int, ...] = ()
    predicted: int = 0
    is_last: bool = False
    stop_type: str = ""
    progress: tuple[int, int, int] | None = None
    logprob: TokenLogprob | None = None


def parse_chunk(data: Any) -> Chunk:
    """Raises the error that the stream may hold instead."""
    if "error" in data:
        raise translate(200, data)
    progress = data.get("prompt_progress")
    if progress is not None:  # its `tokens` mean nothing
        done, total = int(progress.get("processed", 0)), int(progress.get("total", 0))
        return Chunk(progress=(done, total, int(progress.get("cache", 0))))
    probabilities = data.get("completion_probabilities") or ()
    return Chunk(
        content=str(data.get("content", "")),
        tokens=tuple(data.get("tokens") or ()),
        predicted=int(data.get("tokens_predicted", 0)),
        is_last=bool(data.get("stop")),
        stop_type=str(data.get("stop_type", "")),
        logprob=_logprob(probabilities[-1]) if probabilities else None,
    )


def _logprob(data: Mapping[str, Any]) -> TokenLogprob:
    others = tuple(_logprob(other) for other in data.get("top_logprobs") or ())
    return TokenLogprob(
        token=str(data.get("token", "")),
        logprob=float(data.get("logprob", 0.0)),
        token_bytes=bytes(data.get("bytes") or ()),
        top=others,
    )


def told_tokens(chunk: Chunk, before: int, pieces: Sequence[bytes], by_bytes: Mapping[bytes, int]) -> tuple[int, ...]:
    """All tokens since `before` had been predicted: those that the chunk tells, behind those that it holds back."""
    missing = chunk.predicted - before - len(chunk.tokens)
    if missing <= 0 or not chunk.tokens:
        return chunk.tokens
    last = chunk.tokens[-1]
    content = chunk.content.encode()
    held = content.removesuffix(pieces[last]) if 0 <= last < len(pieces) else content
    return (*(_split(held, missing, by_bytes) or ()), *chunk.tokens)


def _split(data: bytes, count: int, by_bytes: Mapping[bytes, int]) -> tuple[int, ...] | None:
    """The bytes as so many tokens, the longest first; None where there is no such way."""
    if count == 0 or len(data) < count:
        return () if count == len(data) == 0 else None
    for length in range(min(_MOST_SPLITS, len(data) - count + 1), 0, -1):
        token = by_bytes.get(data[:length])
        rest = None if token is None else _split(data[length:], count - 1, by_bytes)
        if token is not None and rest is not None:
            return (token, *rest)
    return None


def translate(status: int, data: Any) -> GatewayError:
    """The server's error by its meaning."""
    error = data.get("error") if isinstance(data, dict) else None
    error = error if isinstance(error, dict) else {}
    kind, message = str(error.get("type", "")), str(error.get("message", "")) or f"llama.cpp's server said {status}"
    if kind == "exceed_context_size_error":
        return PromptTooLongError.of(int(error.get("n_prompt_tokens", 0)), int(error.get("n_ctx", 0)))
    if "ontext size has been exceeded" in message:
        return PromptTooLongError(f"llama.cpp's server: {message}")
    if status in (429, 503):
        return OverloadedError(f"llama.cpp's server: {message}", retry_after_s=1)
    if status == 400:
        return InvalidRequestError(f"llama.cpp's server refused the request: {message}")
    return InternalError(f"llama.cpp's server: {message}")
