"""Lengths of time as people write them into settings."""

from __future__ import annotations

import math
import re
from typing import Any

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NEVER = ("never", "forever", "infinite")


def parse_keep_alive(value: Any) -> float | None:
    """For how long something that nobody uses is kept, in seconds: a number of them, or a text such as `5m`, `1h30m` or
    `90`; anything negative, or `never`, is for ever (infinity). None for what says nothing of the kind."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _or_for_ever(float(value))
    return _parse_text(value.strip().lower()) if isinstance(value, str) else None


def _parse_text(text: str) -> float | None:
    if text in _NEVER:
        return math.inf
    if _NUMBER.fullmatch(text):
        return _or_for_ever(float(text))
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return _or_for_ever(sign * sum(float(number) * _UNITS_S[unit] for number, unit in parts))


def _or_for_ever(seconds: float) -> float | None:
    if math.isnan(seconds):
        return None
    return math.inf if seconds < 0 else seconds
