"""Whether each model that is loaded answers: one token, by the way that clients take."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

import orjson

from gateway.command.checks.finding import Finding, fault, fine
from gateway.command.ends import KEY_REMEDY
from gateway.command.runfile import reachable

_PATIENCE_S: Final = 120.0


def check_generation(url: str, key: str, models: Sequence[str]) -> Iterator[Finding]:
    """Of models that are ready."""
    for model in models:
        began_s = time.monotonic()
        try:
            status, answer = _ask(url, key, model)
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            yield fault(f"answer of {model}", f"none came: {error}; see `mlx-gateway logs`")
            continue
        took_s = time.monotonic() - began_s
        if status == http.HTTPStatus.OK:
            yield fine(f"answer of {model}", f"a token after {took_s:.2f} s")
        else:
            told = answer.get("error", {}).get("message", "")
            yield fault(f"answer of {model}", f"status {status}: {told}; {_remedy(status, model)}")


def _remedy(status: int, model: str) -> str:
    return KEY_REMEDY if status == http.HTTPStatus.UNAUTHORIZED else f"see `mlx-gateway logs {model}`"


def _ask(url: str, key: str, model: str) -> tuple[int, dict[str, dict[str, str]]]:
    address = urlsplit(reachable(url))
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_PATIENCE_S)
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
    headers: dict[str, str | bytes] = {"content-type": "application/json"}
    if key:
        headers["x-api-key"] = key.encode("utf-8", "surrogateescape")
    try:
        connection.request("POST", "/v1/messages", orjson.dumps(body), headers)
        response = connection.getresponse()
        return response.status, orjson.loads(response.read())
    finally:
        connection.close()
