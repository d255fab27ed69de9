"""How clients of every dialect say that they ask again, and hear whether they should.

The SDKs obey `x-should-retry`, and without it retry 408, 409, 429 and every status from 500; each time they count up
`x-stainless-retry-count`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from shared.errors import GatewayError

_RETRY_COUNT = "x-stainless-retry-count"
_RETRIED_BY_DEFAULT_FROM = 500


def is_retry(headers: Mapping[str, str]) -> bool:
    """Whether the client has asked this before."""
    return headers.get(_RETRY_COUNT, "") not in ("", "0")


def retry_headers(error: GatewayError, status: int) -> dict[str, str]:
    """`retry-after` in whole seconds, at least 1, when the error knows a time; `x-should-retry` where it matters."""
    headers: dict[str, str] = {}
    if error.retryable:
        headers["x-should-retry"] = "true"
        if error.retry_after_s is not None and math.isfinite(error.retry_after_s):
            headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    elif status >= _RETRIED_BY_DEFAULT_FROM:
        headers["x-should-retry"] = "false"
    return headers
