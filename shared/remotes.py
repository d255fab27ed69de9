"""`remotes.json`: servers elsewhere whose models are served as if they were this host's.

{"remotes": [{"id": "studio", "url": "http://127.0.0.1:1234", "model": "qwen3-8b", "profile": "lmstudio"}]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, get_args
from urllib.parse import urlsplit

from shared.options import MOST_S, Option, raise_first, unknown_names, value_faults
from shared.registry import LoadPolicy, ModelSpec
from shared.remote_commands import command_faults

FILE: Final = "remotes.json"
HOPS_HEADER: Final = "x-mlx-gateway-hops"
MOST_HOPS: Final = 3  # gateways behind one another: more is a ring
PROFILES: Final = (
    "openai",
    "anthropic",
    "lmstudio",
    "ollama",
    "llama-server",
    "mistralrs",
    "mlx-lm",
    "mlx-omni-server",
    "vllm-mlx",
    "mlx-gateway",
)
TOOLS: Final = ("native", "prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """One model of one server. `model` is its name there (empty: the only one, or the first), `profile` what speaks
    there (empty: found out). The key is `key`, or in the variable that `key_env` names. `slots` and `context_tokens` 0
    are asked of the server; where it does not tell its slots they are tried out, if `probe` says so, or says nothing
    and the server is near and wants no key. `tools` says whether it takes tools itself or has them written into the
    prompt. It may be silent for `silence_s`. `command` starts it, on this machine, and keeps it running; it may take
    `start_s` until it answers."""

    id: str
    url: str
    model: str = ""
    profile: str = ""
    key: str = ""
    key_env: str = ""
    slots: int = 0
    probe: bool | None = None
    context_tokens: int = 0
    tools: str = "native"
    images: bool = False
    silence_s: float = 120.0
    load: LoadPolicy = "start"
    command: tuple[str, ...] = ()
    start_s: float = 600.0

    @property
    def source(self) -> str:
        """What may be shown of it: never its key."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}#{self.model}"

    @property
    def spec(self) -> ModelSpec:
        """As a model of a host. Its options change with the entry, so that its worker starts anew; the worker reads the
        entry itself, for keys go neither into arguments nor into Redis."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return ModelSpec(id=self.id, source=self.source, engine="remote", options={"entry": digest}, load=self.load)


# Of an entry of `remotes.json`.
REMOTE: Final[Mapping[str, Option]] = {
    "id": Option(is_needed=True),
    "url": Option(is_needed=True),
    "model": Option(),
    "profile": Option(choices=("", *PROFILES)),
    "key": Option(is_secret=True),
    "key_env": Option(),
    "slots": Option(kind="whole", most=10_000, note="0: asked of the server"),
    "probe": Option(kind="flag"),
    "context_tokens": Option(kind="whole", note="0: asked of the server"),
    "tools": Option(choices=TOOLS),
    "images": Option(kind="flag"),
    "silence_s": Option(kind="number", least=0.001, most=MOST_S),
    "load": Option(choices=get_args(LoadPolicy)),
    "command": Option(kind="texts", is_needed=True),
    "start_s": Option(kind="number", most=MOST_S),
}


def parse_remotes(data: Any) -> tuple[Remote, ...]:
    """Raises `ConfigError` for what cannot be meant."""
    raise_first(remotes_faults(data))
    entries = data.get("remotes", ()) if isinstance(data, dict) else data
    return tuple(Remote(**{**entry, "command": tuple(entry.get("command", ()))}) for entry in entries)


def remotes_faults(data: Any) -> Iterator[str]:
    """One line for each value, and for each name that nobody reads: it may be a misspelt `key_env`, without which
    nobody is let in."""
    if data == {}:
        return
    entries = data.get("remotes") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        yield f'{FILE}: expected {{"remotes": [...]}}'
        return
    for index, entry in enumerate(entries):
        yield from _entry_faults(f"{FILE}: entry {index}", entry)
    ids = [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    for twice in sorted({name for name in ids if ids.count(name) > 1}):
        yield f"{FILE}: two entries are called {twice!r}"


def _entry_faults(where: str, entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"{where} is not an object"
        return
    yield from (f"{where} needs a `{needed}`" for needed in ("id", "url") if needed not in entry)
    found = [*unknown_names(where, REMOTE, entry), *value_faults(where, REMOTE, entry)]
    yield from found
    if not found:  # each is of its kind
        yield from _meaning_faults(where, entry)


def _meaning_faults(where: str, entry: Mapping[str, Any]) -> Iterator[str]:
    host = _host_of(entry.get("url", ""))
    if not host and "url" in entry:
        yield f"{where}: `url` {entry['url']!r} is no http:// or https:// address"
    if not entry.get("id", "").isprintable():
        yield f"{where}: {entry['id']!r} is no name that a client could say"
    if "command" in entry:
        yield from command_faults(entry["command"], host, where)


def _host_of(url: str) -> str:
    """Empty for what is no http:// or https:// address. (`urlsplit` leaves out line ends, which nobody meant.)"""
    if not url.isprintable() or " " in url:
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.scheme in ("http", "https") else ""
