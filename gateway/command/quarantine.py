"""What is refused because workers die of it, for a person."""

from __future__ import annotations

from gateway.dispatch.suspects import Suspects
from shared.config import Settings
from shared.connections import build_async_redis
from shared.keys import Names


async def quarantine_lines(settings: Settings) -> list[str]:
    """A line for each request. Raises `redis.RedisError`."""
    async with build_async_redis(settings) as broker:
        suspects = Suspects(broker, Names(settings.deployment))
        await suspects.look()
    return [_line(digest, shape) for digest, shape in suspects.quarantined.items()]


def _line(digest: str, shape: object) -> str:
    sizes = shape.items() if isinstance(shape, dict) else ()
    told = ", ".join(f"{name} {value}" for name, value in sizes if value)
    return f"refused  request {digest}, of which workers died: {told}"
