"""How long a model may think, as clients of other servers ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.dialects import fields

# What servers of models call a budget for reasoning: in a body, or as a variable of the chat template.
BUDGETS: Final = ("thinking_budget", "thinking_token_budget")


def parse_budget(body: Mapping[str, Any], template: Mapping[str, Any]) -> int | None:
    """The API knows no budget for reasoning; these are the places where clients of other servers put one, and -1 is how
    they ask for none."""
    reasoning, thinking = (
        value if isinstance(value := body.get(name), dict) else {} for name in ("reasoning", "thinking")
    )
    places: tuple[tuple[Any, tuple[str, ...]], ...] = (
        *((body.get(name), (name,)) for name in BUDGETS),
        (reasoning.get("max_tokens"), ("reasoning", "max_tokens")),
        (thinking.get("budget_tokens"), ("thinking", "budget_tokens")),
        *((_whole(template.get(name)), ("chat_template_kwargs", name)) for name in BUDGETS),
    )
    value, at = next(((value, at) for value, at in places if value is not None), (None, ()))
    budget = fields.integer(value, *at, low=-1)
    return None if budget == -1 else budget


def _whole(value: Any) -> int | None:
    """What a template reads may be anything."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= -1 else None
