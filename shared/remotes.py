"""`remotes.json`: servers elsewhere whose models are served as if they were this host's.

{"remotes": [{"id": "studio", "url": "http://127.0.0.1:1234", "model": "qwen3-8b", "profile": "lmstudio"}]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final
from urllib.parse import urlsplit

from shared.errors import ConfigError
from shared.registry import LoadPolicy, ModelSpec

FILE: Final = "remotes.json"
HOPS_HEADER: Final = "x-mlx-gateway-hops"
MOST_HOPS: Final = 3  # gateways behind one another: more is a ring
PROFILES: Final = ("openai", "anthropic", "lmstudio", "ollama", "llama-server", "mlx-lm", "vllm-mlx", "mlx-gateway")
_HERE: Final = ("127.0.0.1", "localhost", "::1")
_REQUEST_LOGS: Final = ("-l", "--log")
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


_KEYS: Final = tuple(field.name for field in fields(Remote))
_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "slots": int,
    "probe": bool,
    "context_tokens": int,
    "images": bool,
    "silence_s": (int, float),
    "start_s": (int, float),
    "command": list,
}
_CHOICES: Final = {"profile": ("", *PROFILES), "tools": TOOLS, "load": ("start", "on-demand")}


def parse_remotes(data: Any) -> tuple[Remote, ...]:
    """Raises `ConfigError` for what cannot be meant."""
    if data == {}:
        return ()
    entries = data.get("remotes") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise ConfigError(f'{FILE}: expected {{"remotes": [...]}}')
    remotes = tuple(_parse(entry, f"{FILE}: entry {index}") for index, entry in enumerate(entries))
    ids = [remote.id for remote in remotes]
    for twice in sorted({name for name in ids if ids.count(name) > 1}):
        raise ConfigError(f"{FILE}: two entries are called {twice!r}")
    return remotes


def _parse(entry: Any, where: str) -> Remote:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is not an object")
    for key, value in entry.items():
        _check(key, value, where)
    for needed in ("id", "url"):
        if not entry.get(needed):
            raise ConfigError(f"{where} needs a `{needed}`")
    parts = urlsplit(entry["url"])
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{where}: `url` {entry['url']!r} is no http:// or https:// address")
    if not entry["id"].isprintable():
        raise ConfigError(f"{where}: {entry['id']!r} is no name that a client could say")
    if "command" in entry:
        _check_command(entry["command"], parts.hostname, where)
    return Remote(**{**entry, "command": tuple(entry.get("command", ()))})


def _check_command(command: Any, host: str, where: str) -> None:
    """What is started here listens here, and writes down nobody's prompts."""
    if not command or not all(isinstance(word, str) and word for word in command):
        raise ConfigError(f"{where}: `command` is a program and its arguments, each a text")
    if host not in _HERE:
        raise ConfigError(f"{where}: what `command` starts is asked on this machine: `url` is to name 127.0.0.1")
    if "mistralrs" in command[0] and (found := [word for word in command if word in _REQUEST_LOGS]):
        raise ConfigError(f"{where}: `{found[0]}` of mistral.rs writes whole prompts into a file; leave it out")


def _check(key: str, value: Any, where: str) -> None:
    if key not in _KEYS:
        raise ConfigError(f"{where}: nothing reads {key!r}; there are {', '.join(_KEYS)}")
    kind = _KINDS.get(key, str)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where}: `{key}` {value!r} is of another kind")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise ConfigError(f"{where}: `{key}` {value!r} is none of {', '.join(filter(None, _CHOICES[key]))}")
    if isinstance(value, int | float) and value < 0:
        raise ConfigError(f"{where}: `{key}` is negative")
