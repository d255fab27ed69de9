"""This gateway: its release, its settings, and who has set them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from shared.cache_settings import CACHE, FILE, with_cache_settings
from shared.config import Settings, environment_name, set_variables, setting_sources

# Of each setting of `cache_settings.json`: what it counts, and what it means.
_MEANINGS: Final[Mapping[str, tuple[str, str]]] = {
    "cache_bytes": ("bytes", "memory for each model's prefix cache; 0: chosen to suit the machine"),
    "cache_max_slots": ("conversations", "that the cache is sized for, and that subagents and titles never push out"),
    "cache_max_tokens": ("tokens", "of each conversation that the cache is sized for"),
    "cache_min_reuse_tokens": ("tokens", "shorter shared prefixes are computed again"),
    "cache_block_tokens": ("tokens", "of a block, the least that is shared inside a message"),
    "cache_bits": ("bits", "of a number that is kept and not in use; 0: as it was computed"),
    "ssd_cache_bytes": ("bytes", "disk for each model; 0: a tenth of what is free, negative: none"),
    "memory_bytes": ("bytes", "that all models of a Mac may use together; 0: by the machine's memory"),
}


def render_about(gateway: str, settings: Settings, said: Mapping[str, int]) -> dict[str, Any]:
    """Secrets are shown as set. `given` says who has set a variable; the others are as usual. `said` is what
    `cache_settings.json` says now, which workers take when they start."""
    given = setting_sources(settings)
    now = with_cache_settings(settings, said, given)
    by_file = {environment_name(name): FILE for name in said}
    return {
        "gateway": gateway,
        "version": version("mlx-gateway"),
        "python": platform.python_version(),
        "given": by_file | given,
        "settings": set_variables(now),
        "cache": {environment_name(name): _cache(now, name) for name in CACHE},
        "licences": {"preact": "MIT", "htm": "Apache-2.0", "uPlot": "MIT"},
    }


def _cache(settings: Settings, name: str) -> dict[str, Any]:
    unit, meaning = _MEANINGS[name]
    option = CACHE[name]
    bounds = {"among": list(option.among)} if option.among else {"least": option.least, "most": option.most}
    return {"name": name, "value": getattr(settings, name), "unit": unit, "meaning": meaning, **bounds}
