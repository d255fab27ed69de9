"""What a gateway serves, asked over HTTP: it may be that of another machine."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from gateway.command.agents.base import ServedModels
from gateway.command.ends import KEY_REMEDY, not_running, not_there
from gateway.dialects.anthropic.schema import NAMES
from shared.errors import ConfigError

_POLL_S = 0.1
_ASK_S = 60.0
_ASK_AGAIN_S = 1.0
_KNOWN_S = 5.0  # by then the gateway has heard of what its workers loaded
_TRY_AGAIN = (504, 529)  # a model that is still loading, or no worker yet
_ANY_CLAUDE = "claude"  # a name that every gateway serves: its default model


def read_models(url: str, key: str, model: str | None, *, say: Callable[[str], None]) -> ServedModels:
    """What the gateway at `url` serves under Claude's names, the main one being `model` if given, and loaded.

    Raises `ConfigError` in the gateway's words, or when nothing answers.
    """
    gateway = _Gateway(url, key)
    name = model or _ANY_CLAUDE
    gateway.load(name, say)
    main = gateway.model(name)
    end_s = time.monotonic() + _KNOWN_S
    while "max_input_tokens" not in main and time.monotonic() < end_s:
        time.sleep(_POLL_S)
        main = gateway.model(name)
    default = gateway.model(_ANY_CLAUDE)["display_name"]
    tiers = {tier: gateway.model(f"{_ANY_CLAUDE}-{tier}")["display_name"] for tier in NAMES.tiers}
    capabilities = main.get("capabilities", {})
    return ServedModels(
        main=main["display_name"],
        context_tokens=main.get("max_input_tokens", 0),
        tiers={tier: served for tier, served in tiers.items() if served != default},
        reads_images=_is_supported(capabilities, "image_input"),
        reasons=_is_supported(capabilities, "thinking"),
    )


def _is_supported(capabilities: dict[str, Any], name: str) -> bool:
    return bool(capabilities.get(name, {}).get("supported"))


def told(status: int, answer: Mapping[str, Any]) -> str:
    """Why a gateway refused, in its words, and what helps where it is the key."""
    message = str(answer["error"]["message"])
    return f"{message}; {KEY_REMEDY}" if status == http.HTTPStatus.UNAUTHORIZED else message


def connect(url: str) -> http.client.HTTPConnection:
    """To the gateway at `url`, not opened yet."""
    address = urlsplit(url)
    if address.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(address.hostname or "", address.port, timeout=_ASK_S, context=context)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=_ASK_S)


class _Gateway:
    """Asks as an Anthropic client does."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers: dict[str, str | bytes] = {"anthropic-version": "2023-06-01", "content-type": "application/json"}
        if key:
            self._headers["x-api-key"] = key.encode("utf-8", "surrogateescape")

    def model(self, name: str) -> dict[str, Any]:
        """The entry of the model behind a name."""
        return self._answer(*self._ask("GET", f"/v1/models/{quote(name, safe='')}"))

    def load(self, name: str, say: Callable[[str], None]) -> None:
        """Until the model behind the name answers, which also asks for it to be loaded."""
        body = {"model": name, "messages": [{"role": "user", "content": "hello"}]}
        said = False
        while True:
            status, answer = self._ask("POST", "/v1/messages/count_tokens", body)
            if status not in _TRY_AGAIN:
                self._answer(status, answer)
                return
            if not said:
                say(f"waiting for {'a model' if name == _ANY_CLAUDE else name} to load")
                said = True
            time.sleep(_ASK_AGAIN_S)

    def _answer(self, status: int, answer: dict[str, Any]) -> dict[str, Any]:
        if status != http.HTTPStatus.OK:
            build = not_there if status == http.HTTPStatus.NOT_FOUND else ConfigError
            raise build(f"{self._url}: {told(status, answer)}")
        return answer

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        connection = connect(self._url)
        try:
            connection.request(method, path, None if body is None else orjson.dumps(body), self._headers)
            response = connection.getresponse()
            return response.status, orjson.loads(response.read())
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            raise not_running(f"{self._url}: no gateway answers ({error})") from error
        finally:
            connection.close()
