"""Redis may go away at any moment; what was to be done is done again later."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import redis

log = logging.getLogger(__name__)


class Patience:
    """Logs the first failure of a row of them."""

    def __init__(self) -> None:
        self._is_redis_away = False

    @contextmanager
    def __call__(self, task: str) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            if not self._is_redis_away:
                log.warning("could not %s: %s", task, error)
            self._is_redis_away = True
        else:
            self._is_redis_away = False
