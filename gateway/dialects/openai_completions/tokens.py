"""Log probabilities in the API's own shape: rows of a table, a column for each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gateway.dialects.openai.logprobs import LOWEST
from shared.events import TokenLogprob


class TokenTable:
    """Of one answer. Offsets count characters from the answer's beginning."""

    def __init__(self) -> None:
        self._offset = 0

    def add(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The columns of the tokens that follow."""
        offsets = []
        for item in logprobs:
            offsets.append(self._offset)
            self._offset += len(item.token)
        return {
            "tokens": [item.token for item in logprobs],
            "token_logprobs": [_finite(item.logprob) for item in logprobs],
            "top_logprobs": [{top.token: _finite(top.logprob) for top in (item, *item.top)} for item in logprobs],
            "text_offset": offsets,
        }


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LOWEST
