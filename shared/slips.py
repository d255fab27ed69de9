"""What a person has set and nobody reads: misspelt variables, files, keys and tiers, each with what was meant.

None of them is an error: a newer or older version may know the name, and another program may own the variable. They
are told when a process starts, and by `mlx-gateway doctor`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from shared.config import SETTINGS_FILES, SOURCES, Settings, SettingsFile, environment_name, plain_environment
from shared.errors import ConfigError
from shared.nearest import meant
from shared.options import ENGINE_OPTIONS, GGUF, unknown_names
from shared.registry import MODEL, MODELS_FILE_KEYS, engine_of_entry
from shared.routing import Target

_OURS: Final = ("MLX_GATEWAY_", "MLX_CACHE_")
_FOR_TESTS: Final = "MLX_GATEWAY_TEST_"


def find_slips(settings: Settings, tiers: Sequence[str], environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """One line for each. `tiers` are those that clients can ask for. Files that do not parse are left to those who
    read them."""
    yield from _variables(plain_environment() if environ is None else environ)
    if settings.config_dir is not None:
        yield from _files(settings.config_dir)
        yield from _models(_content(settings, "models.json"))
        routing = _content(settings, "claude_routing.json")
        yield from _tiers(routing, tiers)
        yield from _profiles(routing, _content(settings, "inference_settings.json"))
        yield from _gguf("gguf_config.json", _content(settings, "gguf_config.json"))


def _variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = {SOURCES, *(environment_name(each.name) for each in fields(Settings))}
    for name in sorted(environ):
        if name.startswith(_OURS) and name not in known and not name.startswith(_FOR_TESTS):
            yield f"nothing reads the variable {name}{meant(name, known)}"


def _files(folder: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob("*.json")):
            if path.name not in SETTINGS_FILES:
                yield f"nothing reads the file {path}{meant(path.name, SETTINGS_FILES)}"


def _models(data: Any) -> Iterator[str]:
    entries = data.get("models") if isinstance(data, dict) else data
    if isinstance(data, dict):
        yield from _keys("models.json", data, MODELS_FILE_KEYS)
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            where = f"models.json: entry {index}"
            yield from _keys(where, entry, MODEL)
            yield from _options(f"{where}: options", entry)


def _options(where: str, entry: Mapping[str, Any]) -> Iterator[str]:
    """Its model alone is not loaded, for its engine refuses them; the others are."""
    engine, options = engine_of_entry(entry), entry.get("options")
    if isinstance(engine, str) and engine in ENGINE_OPTIONS and isinstance(options, dict):
        yield from unknown_names(f"{where}: {engine} engine", ENGINE_OPTIONS[engine], options)


def _tiers(data: Any, known: Sequence[str]) -> Iterator[str]:
    if not isinstance(data, dict):
        return
    yield from _keys("claude_routing.json", data, {"tiers", "fallbacks", "rules"})
    tiers = data.get("tiers")
    for tier, target in tiers.items() if isinstance(tiers, dict) else ():
        if tier.lower() not in known:
            yield f"claude_routing.json: no client asks for the tier {tier!r}{meant(tier.lower(), known)}"
        if isinstance(target, dict):
            yield from _keys(f"claude_routing.json: tier {tier!r}", target, {each.name for each in fields(Target)})


def _profiles(routing: Any, sampling: Any) -> Iterator[str]:
    known = _table(sampling, "profiles")
    for tier, target in _table(routing, "tiers").items():
        profile = _text(target, "profile")
        if profile and profile not in known:
            where = f"claude_routing.json: tier {tier!r}"
            yield f"{where}: inference_settings.json has no profile {profile!r}{meant(profile, known)}"


def _table(data: Any, key: str) -> Mapping[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _text(data: Any, key: str) -> str:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""


def _gguf(file: str, data: Any) -> Iterator[str]:
    if not isinstance(data, dict):
        return
    yield from _keys(file, data, (*GGUF, "models"))
    for model, options in _table(data, "models").items():
        if isinstance(options, dict):
            yield from _keys(f"{file}: model {model!r}", options, GGUF)


def _keys(where: str, table: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    for key in table:
        if key not in known:
            yield f"{where}: nothing reads {key!r}{meant(key, known)}"


def _content(settings: Settings, name: str) -> Any:
    try:
        return SettingsFile(settings, name).load()
    except ConfigError:
        return None
