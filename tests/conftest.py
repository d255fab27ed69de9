"""Fixtures every test may use: a Redis of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from shared.redis_server import RedisServer
from tests.support import undertaker

pytest_plugins = ["tests.support.examples", "tests.support.models", "tests.support.stack"]


def pytest_configure() -> None:
    undertaker.begin()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A real, empty server for this test alone."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client
