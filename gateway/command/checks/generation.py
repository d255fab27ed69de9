"""Whether each model that is loaded answers: one token, or one vector, by the way that clients take."""

from __future__ import annotations

import http.client
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from gateway.command.checks.finding import Finding, fault, fine
from gateway.command.ends import KEY_REMEDY
from gateway.command.runfile import reachable

_PATIENCE_S: Final = 120.0


_SAYING: Final = "generate"
# By the kind of work that a model does: the way that clients take, what is asked besides the model, what is answered.
_ASKED: Final[Mapping[str, tuple[str, Mapping[str, Any], str]]] = {
    _SAYING: ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}, "a token"),
    "embed": ("/v1/embeddings", {"input": "hello"}, "a vector"),
}


def checked_kind(kinds: Collection[str]) -> str:
    """By which a model of these kinds is asked; empty for one whose work needs more than a word, such as a sound."""
    return next((kind for kind in _ASKED if kind in kinds), "")


def check_generation(url: str, key: str, models: Sequence[str], kind: str = _SAYING) -> Iterator[Finding]:
    """Of models that are ready, and do work of this kind."""
    path, body, what = _ASKED[kind]
    for model in models:
        began_s = time.monotonic()
        try:
            status, answer = _ask(url, key, path, {"model": model, **body})
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            yield fault(f"answer of {model}", f"none came: {error}; see `mlx-gateway logs`")
            continue
        took_s = time.monotonic() - began_s
        if status == http.HTTPStatus.OK:
            yield fine(f"answer of {model}", f"{what} after {took_s:.2f} s")
        else:
            told = answer.get("error", {}).get("message", "")
            yield fault(f"answer of {model}", f"status {status}: {told}; {_remedy(status, model)}")


def _remedy(status: int, model: str) -> str:
    if status == http.HTTPStatus.FORBIDDEN:
        return "its key is in MLX_GATEWAY_API_KEY: set it to one that may"
    return KEY_REMEDY if status == http.HTTPStatus.UNAUTHORIZED else f"see `mlx-gateway logs {model}`"


def _ask(url: str, key: str, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, dict[str, str]]]:
    address = urlsplit(reachable(url))
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_PATIENCE_S)
    headers: dict[str, str | bytes] = {"content-type": "application/json"}
    if key:
        headers["x-api-key"] = key.encode("utf-8", "surrogateescape")
    try:
        connection.request("POST", path, orjson.dumps(body), headers)
        response = connection.getresponse()
        return response.status, orjson.loads(response.read())
    finally:
        connection.close()
