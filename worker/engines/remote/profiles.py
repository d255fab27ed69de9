"""What is known of each kind of server: where it is asked, what it takes, and how its window is found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shared.errors import ModelUnavailableError
from shared.foreign import is_name
from shared.http_client import Address, AskError, ask, ask_json
from worker.engines.remote.anthropic import HEADERS

UNKNOWN_CONTEXT_TOKENS = 32768  # where neither a person nor the server says one
_OLLAMA_CONTEXT_TOKENS = 32768
_ANTHROPIC_CONTEXT_TOKENS = 200_000
_LOAD_S = 600.0
_HEALTH_S = 10.0
_TOLD_MODELS = 20
_MOST_CONTEXT_TOKENS = 1 << 31
_MOST_SLOTS = 256
_OURS_AT_ONCE = 8  # a gateway of ours shares its workers out by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a server says of a model: its name there, the window it is loaded with (0: it does not say), how many
    requests it runs at once (0: it does not say), whether it reads images. One that is not loaded (`is_loaded`) was
    not to be."""

    model: str
    context_tokens: int = 0
    slots: int = 0
    images: bool = False
    is_loaded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a person has set for it. `may_load`: somebody asks for the model; else it is only looked for, for who has
    unloaded it wants its memory."""

    model: str
    context_tokens: int
    may_load: bool = True


Shape = Literal["chat", "ollama", "anthropic"]
Find = Callable[[Address, Wanted], Awaitable[Facts]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`path` is asked for answers, in the `shape` of bodies and streams; `headers` are sent with each request, and the
    key in the `key_header` (empty: as a bearer's)."""

    name: str
    find: Find
    path: str = "/v1/chat/completions"
    shape: Shape = "chat"
    headers: Mapping[str, str] = field(default_factory=dict)
    key_header: str = ""
    repetition_penalty: str = "repetition_penalty"
    takes_template_variables: bool = False
    thinking: str = ""  # the field that switches it, beside the template's variables
    keeps_reasoning: bool = False


async def _get(address: Address, path: str, body: Any = None, silence_s: float = 10.0) -> Any:
    """Raises `ModelUnavailableError` with the reason."""
    try:
        status, data = await ask_json(address, path, body, silence_s=silence_s)
    except AskError as error:
        raise ModelUnavailableError(f"{address.url}: {error}") from error
    if status in (401, 403):
        raise ModelUnavailableError(f"{address.url} refuses the key that remotes.json gives it")
    if status != 200 or not isinstance(data, dict):
        raise ModelUnavailableError(f"{address.url}{path} answers with status {status}")
    return data


async def _find_openai(address: Address, wanted: Wanted) -> Facts:
    entry = _choose(address, wanted, await _get(address, "/v1/models"))
    return Facts(model=str(entry["id"]), context_tokens=_window(entry))


def _choose(address: Address, wanted: Wanted, data: Any, key: str = "data", name: str = "id") -> dict[str, Any]:
    """The model's entry in a list. Raises `ModelUnavailableError` naming those there are."""
    entries = [e for e in data.get(key) or () if isinstance(e, dict) and is_name(e.get(name))]
    found = [e for e in entries if wanted.model in ("", e[name])]
    if not found:
        there = ", ".join(str(e[name]) for e in entries[:_TOLD_MODELS]) or "none"
        if more := len(entries[_TOLD_MODELS:]):
            there += f" and {more} more"
        raise ModelUnavailableError(f"{address.url} has no model {wanted.model!r}; there are: {there}")
    return dict(found[0])


def _window(entry: dict[str, Any]) -> int:
    """In the names that servers have for it."""
    meta = entry.get("meta") or {}
    for value in (
        entry.get("max_model_len"),
        entry.get("context_length"),
        entry.get("context_window"),
        meta.get("n_ctx"),
    ):
        if size := _size(value):
            return size
    return 0


def _size(value: Any, most: int = _MOST_CONTEXT_TOKENS) -> int:
    """A size as servers tell it; 0 for what cannot be one."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value <= most else 0


async def _find_llama(address: Address, wanted: Wanted) -> Facts:
    facts = await _find_openai(address, wanted)
    props = await _get(address, "/props")
    n_ctx = _size((props.get("default_generation_settings") or {}).get("n_ctx"))
    images = bool((props.get("modalities") or {}).get("vision"))
    return replace(facts, context_tokens=n_ctx, slots=_size(props.get("total_slots"), _MOST_SLOTS), images=images)


async def _find_lmstudio(address: Address, wanted: Wanted) -> Facts:
    """The loaded window, never the trained one. A model that is not loaded is loaded, with the window that is wanted,
    so that its just-in-time loading, which throws other models out, never has to."""
    try:
        data = await _get(address, "/api/v1/models")
    except ModelUnavailableError:
        return await _find_old_lmstudio(address, wanted)
    entry = _choose(address, wanted, data, "models", "key")
    images = bool((entry.get("capabilities") or {}).get("vision"))
    loaded = entry.get("loaded_instances") or ()
    if not loaded and not wanted.may_load:
        return Facts(model=str(entry["key"]), images=images, is_loaded=False)
    if not loaded:
        body: dict[str, Any] = {"model": entry["key"], "echo_load_config": True}
        if wanted.context_tokens:
            body["context_length"] = min(
                wanted.context_tokens, _size(entry.get("max_context_length")) or _MOST_CONTEXT_TOKENS
            )
        answer = await _get(address, "/api/v1/models/load", body, _LOAD_S)
        loaded = [{"id": answer.get("instance_id", entry["key"]), "config": answer.get("load_config") or {}}]
    config = loaded[0].get("config") or {}
    return Facts(
        model=str(loaded[0].get("id") or entry["key"]),
        context_tokens=_size(config.get("context_length")),
        slots=_size(config.get("parallel")) and 1,  # parallel requests spoil each other's cache there
        images=images,
    )


async def _find_old_lmstudio(address: Address, wanted: Wanted) -> Facts:
    entry = _choose(address, wanted, await _get(address, "/api/v0/models"))
    window = entry.get("loaded_context_length") if entry.get("state") == "loaded" else 0
    return Facts(model=str(entry["id"]), context_tokens=_size(window), images=entry.get("type") == "vlm")


async def _find_ollama(address: Address, wanted: Wanted) -> Facts:
    """The window is what we ask for in each request: what the person wants, within what the model was trained for."""
    entry = _choose_tag(address, wanted, await _get(address, "/api/tags"))
    shown = await _get(address, "/api/show", {"model": entry})
    info = shown.get("model_info") or {}
    trained = next(filter(None, (_size(info[key]) for key in info if key.endswith(".context_length"))), 0)
    return Facts(
        model=entry,
        context_tokens=min(wanted.context_tokens or _OLLAMA_CONTEXT_TOKENS, trained or _OLLAMA_CONTEXT_TOKENS),
        images="vision" in (shown.get("capabilities") or ()),
    )


def _choose_tag(address: Address, wanted: Wanted, data: Any) -> str:
    """`name` may stand for `name:latest`. Models that Ollama runs elsewhere are never chosen unasked."""
    entries = [e for e in data.get("models") or () if isinstance(e, dict) and e.get("name")]
    here = {"models": [e for e in entries if wanted.model or not e.get("remote_host")]}
    named = wanted.model if wanted.model in ("", *(e["name"] for e in entries)) else f"{wanted.model}:latest"
    return str(_choose(address, replace(wanted, model=named), here, "models", "name")["name"])


async def _find_mlx_lm(address: Address, wanted: Wanted) -> Facts:
    """It lists what lies in the hub's cache, and takes any other name for one to load: so the name is always the same,
    that of the model with which it was started where a person gives none."""
    await _get(address, "/health")
    return Facts(model=wanted.model or "default_model")


async def _find_mistralrs(address: Address, wanted: Wanted) -> Facts:
    """`/health` decides, whatever its lines say. The list begins with `default`, which is whatever model was used last;
    one that is not loaded is loaded by the request that asks it."""
    if not await _is_healthy(address):
        raise ModelUnavailableError(f"{address.url} is not ready yet")
    data = await _get(address, "/v1/models")
    named = [e for e in data.get("data") or () if not (isinstance(e, dict) and e.get("id") == "default")]
    entry = _choose(address, wanted, {"data": named})
    if entry.get("status") == "reloading":
        raise ModelUnavailableError(f"{address.url}: {entry['id']} is being loaded")
    return Facts(model=str(entry["id"]), context_tokens=_window(entry))


async def _is_healthy(address: Address) -> bool:
    """Raises `ModelUnavailableError` where nobody answers."""
    try:
        async with ask(address, "/health", silence_s=_HEALTH_S) as response:
            return response.status == 200
    except AskError as error:
        raise ModelUnavailableError(f"{address.url}: {error}") from error


async def _find_omni(address: Address, wanted: Wanted) -> Facts:
    """It downloads what it does not have, so its list is asked first; one answer at a time."""
    return replace(await _find_openai(address, wanted), slots=1)


async def _find_anthropic(address: Address, wanted: Wanted) -> Facts:
    """The list tells the window in newer releases."""
    entry = _choose(address, wanted, await _get(address, "/v1/models?limit=1000"))
    window = _size(entry.get("max_input_tokens")) or wanted.context_tokens or _ANTHROPIC_CONTEXT_TOKENS
    return Facts(model=str(entry["id"]), context_tokens=window, slots=_OURS_AT_ONCE, images=True)


async def _find_ours(address: Address, wanted: Wanted) -> Facts:
    """Anthropic's list tells the window."""
    facts = await _find_openai(address, wanted)
    try:
        as_anthropic = replace(address, headers={**address.headers, "anthropic-version": "2023-06-01"})
        _, data = await ask_json(as_anthropic, "/v1/models?limit=1000")
    except AskError:
        data = {}
    entries = data.get("data") if isinstance(data, dict) else ()
    entry = next((e for e in entries or () if isinstance(e, dict) and e.get("display_name") == facts.model), {})
    window = _size(entry.get("max_input_tokens")) or facts.context_tokens
    return replace(facts, context_tokens=window, slots=_OURS_AT_ONCE)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="openai", find=_find_openai),
        Profile(name="lmstudio", find=_find_lmstudio, repetition_penalty="repeat_penalty"),
        Profile(name="ollama", find=_find_ollama, path="/api/chat", shape="ollama", keeps_reasoning=True),
        Profile(
            name="llama-server",
            find=_find_llama,
            repetition_penalty="repeat_penalty",
            takes_template_variables=True,
            keeps_reasoning=True,
        ),
        Profile(
            name="anthropic",
            find=_find_anthropic,
            path="/v1/messages",
            shape="anthropic",
            headers=HEADERS,
            key_header="x-api-key",
        ),
        Profile(name="mistralrs", find=_find_mistralrs, thinking="enable_thinking"),
        Profile(name="mlx-omni-server", find=_find_omni),
        Profile(name="mlx-lm", find=_find_mlx_lm, takes_template_variables=True),
        Profile(name="vllm-mlx", find=_find_openai, takes_template_variables=True),
        Profile(name="mlx-gateway", find=_find_ours, takes_template_variables=True, keeps_reasoning=True),
    )
}
