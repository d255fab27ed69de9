"""Sampling defaults: what the settings file says for parameters that a client left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from shared.errors import ConfigError
from shared.request import SamplingParams

_NUMBERS = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "seed": int,
}


def parse_sampling(data: Any) -> dict[str, dict[str, Any]]:
    """`inference_settings.json`: `{"defaults": {"temperature": …}, "models": {"id": {…}}}`, by model id, the
    defaults under the empty one."""
    if not isinstance(data, dict) or not isinstance(data.get("models", {}), dict):
        raise ConfigError('inference_settings.json: expected {"defaults": {…}, "models": {"id": {…}}}')
    unknown = set(data) - {"defaults", "models"}
    if unknown:
        raise ConfigError(f"inference_settings.json: unknown key {sorted(unknown)[0]!r}")
    tables = {"": data.get("defaults", {}), **data.get("models", {})}
    return {model: _parse_table(model or "defaults", table) for model, table in tables.items()}


def _parse_table(owner: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"inference_settings.json: {owner}: expected an object")
    return {name: _parse_value(owner, name, value) for name, value in table.items()}


def _parse_value(owner: str, name: str, value: Any) -> Any:
    if name == "stop" and isinstance(value, list) and all(isinstance(text, str) and text for text in value):
        return tuple(value)
    kind = _NUMBERS.get(name)
    if kind is None:
        known = ", ".join((*_NUMBERS, "stop"))
        raise ConfigError(f"inference_settings.json: {owner}: {name!r} cannot be set here (known: {known})")
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise ConfigError(f"inference_settings.json: {owner}: {name} must be a number, not {value!r}")
    return kind(value)


def fill_sampling(params: SamplingParams, tables: Mapping[str, Mapping[str, Any]], model: str) -> SamplingParams:
    """The client's parameters, then the model's, then the defaults."""
    settings = {**tables.get("", {}), **tables.get(model, {})}
    unset = {f.name for f in fields(params) if getattr(params, f.name) in (None, ())}
    found = {name: value for name, value in settings.items() if name in unset}
    return replace(params, **found) if found else params
