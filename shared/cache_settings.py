"""`cache_settings.json`: what prefix caches of this Mac may take, by the names that the settings have.

    {"cache_max_slots": 6, "ssd_cache_bytes": -1}

What the environment or the command line says comes before it. A worker is started with what is said then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from shared.config import Settings, SettingsFile, environment_name, setting_sources
from shared.options import Option, raise_first, unknown_names, value_faults

FILE: Final = "cache_settings.json"
_MOST_BYTES: Final = 1 << 53  # what a browser counts exactly

CACHE: Final[Mapping[str, Option]] = {
    "cache_bytes": Option(kind="whole", most=_MOST_BYTES, note="0: chosen to suit the machine"),
    "cache_max_slots": Option(kind="whole"),
    "cache_max_tokens": Option(kind="whole"),
    "cache_min_reuse_tokens": Option(kind="whole"),
    "cache_block_tokens": Option(kind="whole", least=1),
    "cache_bits": Option(kind="whole", among=(0, 8), note="0: as it was computed"),
    "ssd_cache_bytes": Option(kind="whole", least=-1, most=_MOST_BYTES, note="0: by what is free, -1: none"),
    "memory_bytes": Option(kind="whole", most=_MOST_BYTES, note="0: by the machine's memory"),
}
_VARIABLES: Final = {environment_name(name): name for name in CACHE}


def parse_cache_settings(data: Any) -> dict[str, int]:
    """What is said, by setting. Raises `ConfigError`."""
    raise_first(cache_faults(data))
    return dict(data)


def cache_faults(data: Any) -> Iterator[str]:
    """One line for each."""
    if not isinstance(data, dict):
        yield f'{FILE}: expected an object, such as {{"cache_max_slots": 4}}'
        return
    for name in data.keys() & _VARIABLES.keys():
        yield f"{FILE}: {name} is called {_VARIABLES[name]!r} in this file"
    yield from unknown_names(FILE, CACHE, {name: None for name in data if name not in _VARIABLES})
    yield from value_faults(FILE, CACHE, data)


def with_cache_settings(settings: Settings, said: Mapping[str, int], given: Collection[str]) -> Settings:
    """`given` are the variables that the environment or the command line has set."""
    taken: dict[str, Any] = {name: value for name, value in said.items() if environment_name(name) not in given}
    return replace(settings, **taken)


def read_with_cache_settings(settings: Settings) -> Settings:
    """As a worker is given them that starts now. Raises `ConfigError`."""
    said = parse_cache_settings(SettingsFile(settings, FILE).load())
    return with_cache_settings(settings, said, setting_sources(settings))
