"""Redis clients from settings: one place for time-outs and keep-alive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
import redis.asyncio
from redis.asyncio.connection import parse_url as parse_async_url
from redis.backoff import ExponentialBackoff
from redis.connection import parse_url
from redis.retry import Retry

from shared.config import Settings
from shared.errors import ConfigError
from shared.masters import async_connection_arguments, connection_arguments
from shared.sentinel import is_sentinel

_TIMEOUT_S = 5.0
_MOST_CONNECTIONS = 32  # of one asyncio client: who needs one more waits, however many ask at once


def _url(settings: Settings) -> str:
    if not settings.redis_url:
        raise ConfigError("no Redis: set REDIS_URL, or start everything with `mlx-gateway up`")
    return settings.redis_url


@contextmanager
def _naming_the_url() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"REDIS_URL cannot be used: {error}") from error


def build_redis(settings: Settings, *, socket_timeout_s: float | None = _TIMEOUT_S) -> redis.Redis:
    """A synchronous client. Give `socket_timeout_s=None` to a connection that blocks in a read. Raises `ConfigError`
    for a URL that is missing or is none."""
    url = _url(settings)
    with _naming_the_url():
        named = connection_arguments(url) if is_sentinel(url) else parse_url(url)  # type: ignore[no-untyped-call]
        pool = redis.ConnectionPool(
            **{
                "socket_timeout": socket_timeout_s,
                "socket_connect_timeout": _TIMEOUT_S,
                "retry": Retry(ExponentialBackoff(cap=0.5, base=0.02), 2),
                "health_check_interval": 0,
                **named,
            }
        )
    return redis.Redis.from_pool(pool)


def build_async_redis(settings: Settings, *, socket_timeout_s: float | None = _TIMEOUT_S) -> redis.asyncio.Redis:
    """An asyncio client with the same settings and errors. A burst of commands shares its connections, without a
    time-out: whoever asks has one for the whole."""
    url = _url(settings)
    with _naming_the_url():
        named = async_connection_arguments(url) if is_sentinel(url) else parse_async_url(url)
        pool = redis.asyncio.BlockingConnectionPool(
            **{
                "max_connections": _MOST_CONNECTIONS,
                "timeout": None,
                "socket_timeout": socket_timeout_s,
                "socket_connect_timeout": _TIMEOUT_S,
                "retry": redis.asyncio.retry.Retry(ExponentialBackoff(cap=0.5, base=0.02), 2),
                "health_check_interval": 0,
                **named,
            }
        )
    return redis.asyncio.Redis.from_pool(pool)
