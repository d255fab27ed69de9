"""What a server's error means, by its status and its words: pure. The words are those of llama.cpp, LM Studio, Ollama,
mlx-lm, vLLM and the vendors."""

from __future__ import annotations

import re
from typing import Any

from shared.errors import (
    GatewayError,
    InternalError,
    InvalidRequestError,
    ModelUnavailableError,
    OverloadedError,
    PromptTooLongError,
    WorkerLostError,
)
from shared.foreign import shown

_TOO_LONG = re.compile(
    r"exceed_context_size|context[ _-]?(length|size|window)|n_ctx|n_keep|prompt is too long|input length exceeds"
    r"|maximum context|too many tokens|tokens to keep|keep the first \d+ tokens",
    re.IGNORECASE,
)
_MISSING = re.compile(r"model.{0,80}(not found|does not exist|not loaded|unknown)|no models? loaded", re.I | re.S)
_BUSY = re.compile(r"busy|overloaded|queue|rate limit|too many requests|loading model|at capacity", re.IGNORECASE)
_NUMBERS = re.compile(r"\d+")
_SHOWN = 400
_WAIT_S = (5.0, 600.0)  # where the server says nothing, and the longest that is passed on


def message_of(data: Any) -> str:
    """The words in an error of any shape."""
    if isinstance(data, dict):
        for key in ("error", "message", "detail"):
            if data.get(key):
                return message_of(data[key])
        return ""
    return shown(str(data), _SHOWN) if data else ""


def translate(who: str, status: int, data: Any, retry_after: str = "") -> GatewayError:
    """`who` names the server to the client."""
    words = message_of(data)
    error = data["error"] if isinstance(data, dict) and _has_table(data) else {}
    kind = f"{error.get('type', '')} {error.get('code', '')}"
    if status in (200, 500) and isinstance(error.get("code"), int) and 400 <= error["code"] < 600:
        status = error["code"]  # told inside an answer that began well
    if 300 <= status < 400:
        return ModelUnavailableError(
            f"{who} sends its clients to another address (status {status}), which is not followed: the `url` in "
            "remotes.json is to be the one that answers"
        )
    said = f"{who}: {words or f'status {status}'}"
    if _TOO_LONG.search(f"{kind} {words}") and status not in (401, 403, 429):
        return _too_long(said, data, words)
    if _MISSING.search(words) or (status == 404 and "model" in words.lower()):
        return ModelUnavailableError(said)
    if status in (429, 503, 529) or (status >= 500 and _BUSY.search(words)):
        return OverloadedError(said, retry_after_s=_seconds(retry_after))
    if status in (401, 403):
        return ModelUnavailableError(f"{who} refuses the key that remotes.json gives it")
    if status in (502, 504) or status < 400:
        return WorkerLostError(said)
    return InvalidRequestError(said) if 400 <= status < 500 else InternalError(said)


def _has_table(data: dict[str, Any]) -> bool:
    return isinstance(data.get("error"), dict)


def _too_long(said: str, data: Any, words: str) -> PromptTooLongError:
    """With both numbers where the server tells them."""
    error = data["error"] if isinstance(data, dict) and _has_table(data) else {}
    numbers = [int(number) for number in _NUMBERS.findall(words) if len(number) < 10]
    prompt = error.get("n_prompt_tokens") or max(numbers, default=0)
    window = error.get("n_ctx") or min((n for n in numbers if n >= 128), default=0)
    if prompt and window and prompt > window:
        return PromptTooLongError.of(int(prompt), int(window))
    return PromptTooLongError(f"prompt is too long. {said}")


def _seconds(retry_after: str) -> float:
    default, most = _WAIT_S
    return min(float(retry_after), most) if retry_after.isdecimal() else default
