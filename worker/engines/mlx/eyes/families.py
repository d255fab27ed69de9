"""The families whose images mlx-vlm embeds for a model that mlx-lm computes: a row each, tried against mlx-vlm's own
answers by tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.engines.mlx.eyes.places import Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`order`: its images' tokens stand in a plane (`places`), with frequencies divided so. `written`: the processor's
    name for what a template writes for an image, where that is not the token that its rows stand at. `is_scaled`: the
    model multiplies what it reads by the root of its width, and the tower divides an image's rows by it before."""

    order: Order | None = None
    written: str = "image_token"
    is_scaled: bool = False


FAMILIES: Mapping[str, Family] = {
    "gemma3": Family(written="boi_token", is_scaled=True),
    "lfm2-vl": Family(),
    "mistral3": Family(),
    "pixtral": Family(),
    "qwen2_vl": Family(order="blocks"),
    "qwen2_5_vl": Family(order="blocks"),
    "qwen3_vl": Family(order="turns"),
    "qwen3_vl_moe": Family(order="turns"),
    "qwen3_5": Family(order="turns"),
    "qwen3_5_moe": Family(order="turns"),
}


def sections_of(config: Mapping[str, Any]) -> Sequence[int]:
    """How many frequencies a model's time, rows and columns have; empty where its config does not say."""
    for part in (config.get("text_config") or {}, config):
        for key in ("rope_scaling", "rope_parameters"):
            if found := (part.get(key) or {}).get("mrope_section"):
                return list(found)
    return ()
