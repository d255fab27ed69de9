"""Named ways to ask a model: `profiles` of `inference_settings.json`, chosen as `model:profile`, by an alias or a tier.

    {"profiles": {"careful": {"temperature": 0.2, "thinking": true, "effort": "high", "system": "Answer briefly."}}}

What the client says comes before its profile, and that before the settings of the model and of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.models.sampling import parse_table
from shared.errors import ConfigError
from shared.request import GenerateRequest

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
_OWN = ("thinking", "effort", "budget_tokens", "system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`thinking` None and `budget_tokens` 0 leave both to the request; `system` stands at the head of a conversation
    that has no system text."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    thinking: bool | None = None
    effort: str = ""
    budget_tokens: int = 0
    system: str = ""

    def fill(self, request: GenerateRequest) -> GenerateRequest:
        """With what the request leaves open, sampling aside. What its API takes silence for is left open, too."""
        asked = request.reasoning
        is_open = self.thinking is not None and (asked.enabled is None or not asked.is_asked)
        reasoning = replace(
            asked,
            enabled=self.thinking if is_open else asked.enabled,
            effort=asked.effort or self.effort,
            budget_tokens=asked.budget_tokens or self.budget_tokens or None,
        )
        return replace(request, reasoning=reasoning, default_system=self.system)


def parse_profiles(data: Any) -> dict[str, Profile]:
    """Raises `ConfigError`."""
    table = data.get("profiles", {}) if isinstance(data, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError('inference_settings.json: expected "profiles": {"name": {…}}')
    return {name: _parse(name, entry) for name, entry in table.items()}


def _parse(name: str, entry: Any) -> Profile:
    where = f"inference_settings.json: profile {name!r}"
    if not isinstance(entry, dict) or not name or ":" in name:
        raise ConfigError(f"{where}: expected a name without a colon, and an object")
    own = {key: entry[key] for key in _OWN if key in entry}
    if not isinstance(own.get("thinking", True), bool):
        raise ConfigError(f"{where}: `thinking` is true or false")
    if own.get("effort", _EFFORTS[0]) not in _EFFORTS:
        raise ConfigError(f"{where}: `effort` is one of {', '.join(_EFFORTS)}")
    budget = own.get("budget_tokens", 0)
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise ConfigError(f"{where}: `budget_tokens` is a number of tokens")
    if not isinstance(own.get("system", ""), str):
        raise ConfigError(f"{where}: `system` is a text")
    sampling = parse_table(f"profile {name!r}", {key: value for key, value in entry.items() if key not in _OWN})
    return Profile(sampling=sampling, **own)
