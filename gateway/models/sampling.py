"""Sampling defaults: what the settings file says for parameters that a client left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from shared.errors import ConfigError
from shared.request import SamplingParams

# What parameters may be, with the bounds, in requests and in the settings file.
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0, 10),  # a divisor of logits, so 0 itself is not one of its values
}
MAX_STOP_SEQUENCES: Final = 64
SEED_BITS: Final = 0x7FFF_FFFF_FFFF_FFFF  # what every engine takes

_LEAST_WHOLE: Final[Mapping[str, int]] = {"max_tokens": 1, "top_k": -1, "seed": -(1 << 63)}


def parse_sampling(data: Any) -> dict[str, dict[str, Any]]:
    """`inference_settings.json`: `{"defaults": {"temperature": …}, "models": {"id": {…}}}`, by model id, the
    defaults under the empty one."""
    if not isinstance(data, dict) or not isinstance(data.get("models", {}), dict):
        raise ConfigError('inference_settings.json: expected {"defaults": {…}, "models": {"id": {…}}}')
    unknown = set(data) - {"defaults", "models", "profiles"}
    if unknown:
        raise ConfigError(f"inference_settings.json: unknown key {sorted(unknown)[0]!r}")
    tables = {"": data.get("defaults", {}), **data.get("models", {})}
    return {model: parse_table(model or "defaults", table) for model, table in tables.items()}


def parse_table(owner: str, table: Any) -> dict[str, Any]:
    """Raises `ConfigError`, which names the `owner`."""
    if not isinstance(table, dict):
        raise ConfigError(f"inference_settings.json: {owner}: expected an object")
    return {name: _parse_value(owner, name, value) for name, value in table.items()}


def _parse_value(owner: str, name: str, value: Any) -> Any:
    where = f"inference_settings.json: {owner}: {name}"
    if name == "stop":
        return _parse_stop(where, value)
    if name in _LEAST_WHOLE:
        return _parse_whole(where, name, value)
    if name not in RANGES:
        known = ", ".join((*_LEAST_WHOLE, *RANGES, "stop"))
        raise ConfigError(f"inference_settings.json: {owner}: {name!r} cannot be set here (known: {known})")
    low, high = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} must be a number, not {value!r}")
    if not low <= value <= high or (value == 0 and name == "repetition_penalty"):
        raise ConfigError(f"{where} must be between {low:g} and {high:g}, not {value!r}")
    return float(value)


def _parse_stop(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ConfigError(f"{where} must be a list of texts, not {value!r}")
    if len(value) > MAX_STOP_SEQUENCES:
        raise ConfigError(f"{where} may have {MAX_STOP_SEQUENCES} texts at most")
    return tuple(value)


def _parse_whole(where: str, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{where} must be a whole number, not {value!r}")
    if value < _LEAST_WHOLE[name]:
        raise ConfigError(f"{where} must be at least {_LEAST_WHOLE[name]}, not {value!r}")
    return value & SEED_BITS if name == "seed" else max(value, 0)  # top_k: 0 and -1 both mean off


def fill_sampling(
    params: SamplingParams,
    tables: Mapping[str, Mapping[str, Any]],
    model: str,
    profile: Mapping[str, Any] | None = None,
) -> SamplingParams:
    """The client's parameters, then the profile's, the model's, and the defaults."""
    settings = {**tables.get("", {}), **tables.get(model, {}), **(profile or {})}
    unset = {f.name for f in fields(params) if getattr(params, f.name) in (None, ())}
    found = {name: value for name, value in settings.items() if name in unset}
    return replace(params, **found) if found else params
