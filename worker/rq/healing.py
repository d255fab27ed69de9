"""RQ's keys that hold something else than RQ writes there: named in the log and removed, so that they are made anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import cast

import redis

log = logging.getLogger(__name__)


def heal(client: redis.Redis, kinds: Mapping[str, str]) -> None:
    """Remove the keys that are of another type than theirs. Raises `redis.RedisError`."""
    with client.pipeline(transaction=False) as pipe:
        for key in kinds:
            pipe.type(key)
        found = cast(list[bytes], pipe.execute())
    for (key, kind), other in zip(kinds.items(), found, strict=True):
        if other.decode() not in (kind, "none"):
            log.error(
                "%s held a %s instead of a %s, which nobody of ours wrote: it is removed", key, other.decode(), kind
            )
            client.delete(key)
