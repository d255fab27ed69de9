"""What a request may cost its key, before anything is known of it but its size."""

from __future__ import annotations

from typing import Final

from gateway.dispatch.lookups import text_bytes_of
from shared.request import GenerateRequest

BYTES_PER_TOKEN: Final = 4
_USUAL_TOKENS: Final = 4096  # of an answer without a limit of its own


def most_tokens(request: GenerateRequest) -> int:
    """About; what it really cost is counted when it has ended."""
    return text_bytes_of(request) // BYTES_PER_TOKEN + (request.sampling.max_tokens or _USUAL_TOKENS)
