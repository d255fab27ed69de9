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
from gateway.command.ends import KEY_REMEDY, failed, not_running, not_there
from gateway.dialects.anthropic.schema import NAMES
from shared.errors import ConfigError

_POLL_S = 0.1
_ASK_S = 60.0
_ASK_AGAIN_S = 1.0
_KNOWN_S = 5.0  # by then the gateway has heard of what its workers loaded
_MOST_LISTED = 1000
_TRY_AGAIN = (504, 529)  # a model that is still loading, or no worker yet
_ANY_CLAUDE = "claude"  # a name that every gateway serves: its default model


def read_models(
    url: str, key: str, model: str | None, *, say: Callable[[str], None], with_tiers: bool = True
) -> ServedModels:
    """What the gateway at `url` serves to this key under Claude's names, the main one being `model` if given, and
    loaded. It answers for tiers whose own model the key may not use.

    Raises `ConfigError` in the gateway's words, with what the key may use, or when nothing answers.
    """
    gateway = _Gateway(url, key)
    name = model or _ANY_CLAUDE
    try:
        gateway.load(name, say)
    except ConfigError as error:
        raise (ConfigError(f"{error}; {_what_helps(gateway, name)}") if _is_refused(error) else error) from error
    main = gateway.model(name)
    end_s = time.monotonic() + _KNOWN_S
    while "max_input_tokens" not in main and time.monotonic() < end_s:
        time.sleep(_POLL_S)
        main = gateway.model(name)
    capabilities = main.get("capabilities", {})
    return ServedModels(
        main=main["display_name"],
        context_tokens=main.get("max_input_tokens", 0),
        tiers=_tiers(gateway, main["display_name"], say) if with_tiers else {},
        reads_images=_is_supported(capabilities, "image_input"),
        reasons=_is_supported(capabilities, "thinking"),
    )


def _tiers(gateway: _Gateway, main: str, say: Callable[[str], None]) -> dict[str, str]:
    """The models of tiers that have one of their own."""
    default = gateway.model_if_allowed(_ANY_CLAUDE)
    found = {tier: gateway.model_if_allowed(f"{_ANY_CLAUDE}-{tier}") for tier in NAMES.tiers}
    refused = [tier for tier, served in found.items() if served is None]
    if refused:
        say(f"the key may not use the model of {' and '.join(refused)}: {main} answers there")
    return {tier: served for tier, served in found.items() if served not in (None, default)}


def _is_refused(error: ConfigError) -> bool:
    """Whether the key is known and may not do this."""
    return bool(error.details.get("is_refused"))


def _what_helps(gateway: _Gateway, name: str) -> str:
    """Where the key may look at the model, it is its role that may not ask it."""
    if gateway.model_if_allowed(name) is not None:
        return "an agent needs a key that may: `mlx-gateway key create NAME` makes one, MLX_GATEWAY_API_KEY holds it"
    usable = gateway.models()
    return f"it may use: {', '.join(usable)}" if usable else "it may use none of the models that are served"


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


def refusal(url: str, status: int, answer: Mapping[str, Any]) -> ConfigError:
    """Of a gateway that did not do as it was asked, with how the command ends by it."""
    text = f"{url}: {told(status, answer)}"
    if status == http.HTTPStatus.NOT_FOUND:
        return not_there(text)
    if status == http.HTTPStatus.TOO_MANY_REQUESTS or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return failed(text)  # nothing is wrong with what was said
    return ConfigError(text, is_refused=status == http.HTTPStatus.FORBIDDEN)


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

    def model_if_allowed(self, name: str) -> str | None:
        """The model behind a name; None for one that the key may not use."""
        try:
            return str(self.model(name)["display_name"])
        except ConfigError as error:
            if _is_refused(error):
                return None
            raise

    def models(self) -> list[str]:
        """Those that the key may use."""
        listed = self._answer(*self._ask("GET", f"/v1/models?limit={_MOST_LISTED}"))
        return [str(each["display_name"]) for each in listed["data"]]

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
            raise refusal(self._url, status, answer)
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
