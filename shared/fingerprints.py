"""Who is it? Servers of models are told apart by what they answer, never by their port, which several share.

Each question is one GET that changes nothing. A server that wants a key is there, and cannot be told further.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from shared.foreign import is_name
from shared.http_client import Address, AskError, ask

_PATIENCE_S: Final = 2.0
_MOST_MODELS: Final = 200  # that are told of one server
_NEEDS_KEY: Final = (401, 403)
OURS: Final = "mlx-gateway"
ID_HEADER: Final = "x-mlx-gateway-id"  # of the gateway, on its `/health`


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`profile` is one of `shared.remotes.PROFILES`, empty where a key is needed to tell; `models` are the names that
    it serves; `gateway` is the id of a gateway of ours."""

    url: str
    profile: str
    models: tuple[str, ...] = ()
    gateway: str = ""

    @property
    def needs_key(self) -> bool:
        return not self.profile


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    data: Any
    headers: dict[str, str]


Get = Callable[[str], Awaitable[_Answer]]


async def recognise(address: Address) -> Found | None:
    """None for who is not there, or is no server of models."""
    get = _getter(address)
    try:
        for profile, test in _TESTS:
            found = await test(get)
            if found is not None:
                models = await _known_models(get, profile)
                return Found(url=address.url, profile=profile, models=models, gateway=found)
    except _NeedsKeyError:
        return Found(url=address.url, profile="")
    except AskError:
        return None
    return None


class _NeedsKeyError(Exception):
    """Somebody is there."""


def _getter(address: Address) -> Get:
    async def get(path: str) -> _Answer:
        async with ask(address, path, silence_s=_PATIENCE_S) as response:
            if response.status in _NEEDS_KEY:
                raise _NeedsKeyError
            return _Answer(response.status, await response.json(), dict(response.headers))

    return get


async def _ours(get: Get) -> str | None:
    """Also without a key: `/health` needs none."""
    answer = await get("/health")
    return answer.headers.get(ID_HEADER) or None


async def _ollama(get: Get) -> str | None:
    answer = await get("/api/version")
    return "" if answer.status == 200 and isinstance(answer.data, dict) and "version" in answer.data else None


async def _lmstudio(get: Get) -> str | None:
    for path, sign in (("/api/v1/models", "models"), ("/api/v0/models", "data")):
        answer = await get(path)
        entries = answer.data.get(sign) if answer.status == 200 and isinstance(answer.data, dict) else None
        if isinstance(entries, list) and all(isinstance(e, dict) and _is_studios(e) for e in entries):
            return ""
    return None


def _is_studios(entry: dict[str, Any]) -> bool:
    return ("key" in entry and "loaded_instances" in entry) or ("state" in entry and "compatibility_type" in entry)


async def _llama(get: Get) -> str | None:
    answer = await get("/props")
    is_it = answer.status == 200 and isinstance(answer.data, dict) and "total_slots" in answer.data
    return "" if is_it else None


async def _mistralrs(get: Get) -> str | None:
    """Its list begins with a name that stands for any model, and it tells of the machine."""
    entries = _entries(await get("/v1/models"))
    if not entries or entries[0].get("id") != "default" or entries[0].get("owned_by") != "local":
        return None
    answer = await get("/v1/system/info")
    return "" if answer.status == 200 and isinstance(answer.data, dict) else None


async def _omni(get: Get) -> str | None:
    """Anthropic's list of models stands under a path of its own."""
    answer = await get("/anthropic/v1/models")
    is_it = answer.status == 200 and isinstance(answer.data, dict) and isinstance(answer.data.get("data"), list)
    return "" if is_it else None


def _entries(answer: _Answer) -> list[dict[str, Any]]:
    found = answer.data.get("data") if answer.status == 200 and isinstance(answer.data, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


async def _vllm_mlx(get: Get) -> str | None:
    answer = await get("/health")
    return "" if isinstance(answer.data, dict) and {"engine_type", "model_type"} & answer.data.keys() else None


async def _mlx_lm(get: Get) -> str | None:
    """Python's own server, without a name. (Its list of models breaks off where there is no cache of the hub.)"""
    answer = await get("/health")
    is_it = answer.headers.get("server", "").startswith("BaseHTTP/") and answer.data == {"status": "ok"}
    return "" if is_it else None


async def _openai(get: Get) -> str | None:
    answer = await get("/v1/models")
    is_it = answer.status == 200 and isinstance(answer.data, dict) and isinstance(answer.data.get("data"), list)
    return "" if is_it else None


_TESTS: Final[tuple[tuple[str, Callable[[Get], Awaitable[str | None]]], ...]] = (
    (OURS, _ours),
    ("ollama", _ollama),
    ("lmstudio", _lmstudio),
    ("llama-server", _llama),
    ("vllm-mlx", _vllm_mlx),
    ("mlx-lm", _mlx_lm),
    ("mistralrs", _mistralrs),
    ("mlx-omni-server", _omni),
    ("openai", _openai),
)


async def _known_models(get: Get, profile: str) -> tuple[str, ...]:
    """Those that it tells."""
    try:
        return await _models(get, profile)
    except (_NeedsKeyError, AskError):
        return ()


_LISTS: Final = {"ollama": ("/api/tags", "models", "name"), "lmstudio": ("/v1/models", "data", "id")}


async def _models(get: Get, profile: str) -> tuple[str, ...]:
    path, key, name = _LISTS.get(profile, ("/v1/models", "data", "id"))
    answer = await get(path)
    entries = answer.data.get(key) if isinstance(answer.data, dict) else None
    if not isinstance(entries, list):
        return ()
    names = [e[name] for e in entries if isinstance(e, dict) and is_name(e.get(name))]
    return tuple(each for each in names if (profile, each) != ("mistralrs", "default"))[:_MOST_MODELS]
