"""Redis may be away for some seconds: who asks it for something waits that out, instead of telling a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import BrokerUnavailableError

_PAUSE_S = 0.1

_T = TypeVar("_T")


async def outlast(ask: Callable[[], Awaitable[_T]], *, patience_s: float, away_s: Callable[[], float]) -> _T:
    """What `ask` gives, asked again while it raises `BrokerUnavailableError`: until then for `patience_s`, and no
    longer than Redis has been away for so long (`away_s`), so that many who wait in a row do not wait in turn."""
    end_s = time.monotonic() + patience_s
    while True:
        try:
            return await ask()
        except BrokerUnavailableError:
            if time.monotonic() + _PAUSE_S >= end_s or away_s() >= patience_s:
                raise
        await asyncio.sleep(_PAUSE_S)
