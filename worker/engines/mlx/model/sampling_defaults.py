"""How a model samples where a request says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What holds where the request says nothing: the model's `generation_config.json`, else these."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


def load_defaults(config: dict[str, Any]) -> SamplingDefaults:
    """The sampling part of a parsed `generation_config.json`. Values that are not numbers are ignored."""
    if config.get("do_sample") is False:
        return SamplingDefaults(temperature=0.0)

    def number(name: str, default: float) -> float:
        value = config.get(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default

    return SamplingDefaults(
        temperature=number("temperature", 1.0),
        top_p=number("top_p", 1.0),
        top_k=int(number("top_k", 0)),
        min_p=number("min_p", 0.0),
        repetition_penalty=number("repetition_penalty", 1.0),
    )
