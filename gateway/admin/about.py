"""This gateway: its release, its settings, and who has set them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from shared.config import Settings, environment_name, set_variables, setting_sources

# What prefix caches of this Mac may take, by setting: what it counts, and what it means.
CACHE: Final[Mapping[str, tuple[str, str]]] = {
    "cache_bytes": ("bytes", "memory for each model's prefix cache; 0: chosen to suit the machine"),
    "cache_max_slots": ("conversations", "that the cache is sized for, and that subagents and titles never push out"),
    "cache_max_tokens": ("tokens", "of each conversation that the cache is sized for"),
    "cache_min_reuse_tokens": ("tokens", "shorter shared prefixes are computed again"),
    "cache_block_tokens": ("tokens", "of a block, the least that is shared inside a message"),
    "cache_bits": ("bits", "of a number that is kept and not in use; 0: as it was computed"),
    "ssd_cache_bytes": ("bytes", "disk for each model; 0: a tenth of what is free, negative: none"),
    "memory_bytes": ("bytes", "that all models of a Mac may use together; 0: by the machine's memory"),
}


def render_about(gateway: str, settings: Settings) -> dict[str, Any]:
    """Secrets are shown as set. `given` says who has set a variable; the others are as usual."""
    return {
        "gateway": gateway,
        "version": version("mlx-gateway"),
        "python": platform.python_version(),
        "given": setting_sources(settings),
        "settings": set_variables(settings),
        "cache": {environment_name(name): _cache(settings, name) for name in CACHE},
        "licences": {"preact": "MIT", "htm": "Apache-2.0", "uPlot": "MIT"},
    }


def _cache(settings: Settings, name: str) -> dict[str, Any]:
    unit, meaning = CACHE[name]
    return {"value": getattr(settings, name), "unit": unit, "meaning": meaning}
