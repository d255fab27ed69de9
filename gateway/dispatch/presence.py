"""Whether a connection to Redis is up, for how long it has been so, and how clients hear that it is not."""

from __future__ import annotations

import logging
import time

from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.errors import BrokerUnavailableError

logger = logging.getLogger(__name__)

_RETRY_AFTER_S = 2


def away_error(what: str, error: BaseException | None = None) -> BrokerUnavailableError:
    """`what`, which does not name Redis, happened for want of it. Clients are told of its `error` in our words; the log
    has those of an answer that nobody expects."""
    if isinstance(error, ResponseError):
        logger.error("%s: %s", what, error)
    text = what if error is None else f"{what}: {_told(error)}"
    return BrokerUnavailableError(text, retry_after_s=_RETRY_AFTER_S)


def _told(error: BaseException) -> str:
    if isinstance(error, ResponseError):
        return "Redis refuses it, and the gateway's log says why"
    is_silent = isinstance(error, TimeoutError | RedisTimeoutError)
    return "Redis does not answer" if is_silent else "Redis cannot be reached"


def reason_of(error: BaseException) -> str:
    """For the log, in words, which a time-out has none of."""
    return str(error) or "it does not answer"


class Presence:
    """Base of what keeps a connection. It is away until `_came` is called."""

    def __init__(self) -> None:
        self._is_up = False
        self._since_s = time.monotonic()

    @property
    def is_connected(self) -> bool:
        return self._is_up

    @property
    def connected_s(self) -> float:
        """Seconds since the connection last came up; 0 while it is away."""
        return time.monotonic() - self._since_s if self._is_up else 0.0

    @property
    def away_s(self) -> float:
        """Seconds since the connection went away; 0 while it is up."""
        return 0.0 if self._is_up else time.monotonic() - self._since_s

    def _came(self) -> bool:
        """It is up. False when it was already."""
        return self._turn(True)

    def _went(self) -> bool:
        """It is away. False when it was already."""
        return self._turn(False)

    def _turn(self, is_up: bool) -> bool:
        if self._is_up == is_up:
            return False
        self._is_up, self._since_s = is_up, time.monotonic()
        return True
