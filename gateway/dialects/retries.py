"""How clients of every dialect say that they ask again, and hear whether they should.

The SDKs obey `x-should-retry`, and without it retry 408, 409, 429 and every status from 500; each time they count up
`x-stainless-retry-count`. Codex obeys `retry-after` alone, and without it spends all of its thirty tries in 25 s: so
whatever it tries again says when.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from shared.errors import GatewayError

_RETRY_COUNT = "x-stainless-retry-count"
_RETRIED_BY_DEFAULT_FROM = 500
_SAYS_WHEN = frozenset({429, 503, 529})
_WAIT_S = 2.0  # where nothing better is known


def is_retry(headers: Mapping[str, str]) -> bool:
    """Whether the client has asked this before."""
    return headers.get(_RETRY_COUNT, "") not in ("", "0")


def retry_headers(error: GatewayError, status: int) -> dict[str, str]:
    """`retry-after` in whole seconds, at least 1; `x-should-retry` where it matters."""
    headers: dict[str, str] = {}
    if error.retryable or status >= _RETRIED_BY_DEFAULT_FROM:
        headers["x-should-retry"] = "true" if error.retryable else "false"
    if error.retryable or status in _SAYS_WHEN:
        headers["retry-after"] = str(max(1, math.ceil(wait_s(error))))
    return headers


def wait_s(error: GatewayError) -> float:
    """After how long asking again is worth the client's while."""
    known = error.retry_after_s
    return known if known is not None and math.isfinite(known) else _WAIT_S
