"""Keys of ours in Redis that hold something else than what we write there: named in the log and removed, so that
whoever writes them next makes them anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import redis.asyncio
from redis.exceptions import ResponseError

logger = logging.getLogger(__name__)

# KEYS: some keys. ARGV: the type that each should have. Gives the types that they had, empty for those that are right.
_REMOVE = """
local removed = {}
for index, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  local is_right = found == ARGV[index] or found == 'none'
  if not is_right then redis.call('DEL', key) end
  removed[index] = is_right and '' or found
end
return removed
"""


def wrong_types(replies: Sequence[object], kinds: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Of (key, type) in the order of the replies those that hold another type."""
    pairs = zip(replies, kinds, strict=True)
    return {key: kind for reply, (key, kind) in pairs if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)}


async def heal(broker: redis.asyncio.Redis, keys: Mapping[str, str]) -> None:
    """Remove those that are of another type than theirs. Raises `redis.RedisError`."""
    found = await broker.register_script(_REMOVE)(list(keys), list(keys.values()))
    for (key, kind), other in zip(keys.items(), found, strict=True):
        if other:
            what = other.decode() if isinstance(other, bytes) else other
            logger.error("%s held a %s instead of a %s, which nobody of ours wrote: it is removed", key, what, kind)
