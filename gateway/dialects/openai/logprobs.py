"""Log probabilities in the vendor's shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from shared.events import TokenLogprob

LOWEST: Final = -9999.0  # the vendor's own stand-in for minus infinity, which JSON does not have


def render_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [_render(item) | {"top_logprobs": [_render(top) for top in item.top]} for item in logprobs]


def _render(logprob: TokenLogprob) -> dict[str, Any]:
    value = logprob.logprob
    return {
        "token": logprob.token,
        "logprob": value if math.isfinite(value) else LOWEST,
        "bytes": list(logprob.token_bytes),
    }
