"""Usage in the shape of Chat Completions and Completions."""

from __future__ import annotations

from typing import Any

from shared.events import Usage, known


def render_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": known(usage.input_tokens),
        "completion_tokens": known(usage.output_tokens),
        "total_tokens": known(usage.input_tokens) + known(usage.output_tokens),
        "prompt_tokens_details": {"cached_tokens": known(usage.cached_tokens)},
        "completion_tokens_details": {"reasoning_tokens": known(usage.reasoning_tokens)},
    }
