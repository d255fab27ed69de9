"""`claude_routing.json`: the model behind each of Claude's tiers, and what helps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a name stands for. `model` may itself be an alias until it is resolved. `draft_model` drafts for it;
    `profile` is how it is asked."""

    model: str
    backend: str = ""
    draft_model: str = ""
    profile: str = ""


def parse_tiers(data: Any) -> dict[str, Target]:
    """`{"tiers": {"haiku": "model" | {"model", "backend", "draft_model", "profile"}}}`. Raises `ConfigError`."""
    tiers = data.get("tiers", {}) if isinstance(data, dict) else None
    if not isinstance(tiers, dict):
        raise ConfigError('claude_routing.json: expected {"tiers": {"haiku": "model", …}}')
    return {tier.lower(): _parse_target(tier, value) for tier, value in tiers.items()}


def _parse_target(tier: str, value: Any) -> Target:
    fields = {"model": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str) or not fields["model"]:
        raise ConfigError(f"claude_routing.json: tier {tier!r} needs a `model`")
    texts = {name: fields.get(name) or "" for name in ("model", "backend", "draft_model", "profile")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ConfigError(f"claude_routing.json: tier {tier!r}: backend, draft_model and profile are names")
    return Target(**texts)
