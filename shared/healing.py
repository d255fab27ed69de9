"""Keys in Redis, ours and RQ's, that hold something else than is written there: named in the log and removed, so that
whoever writes them next makes them anew."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, cast

import redis
import redis.asyncio

log = logging.getLogger(__name__)

# For scripts: `heal` removes a key of another type than it should have, and `healed` says which, to be given to
# `tell_healed` behind the script's own answer. `counted` is a whole number that we have written, 0 for anything else.
HEAL = """local healed = {}
local function heal(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
    healed[#healed + 1] = {key, kind, found}
  end
end
local function counted(text)
  local number = type(text) == 'string' and tonumber(text) or 0
  return number >= 0 and number < 9007199254740992 and number == math.floor(number) and number or 0
end
"""

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


def is_wrong_type(reply: object) -> bool:
    """Whether Redis refused a command because of what a key holds."""
    return isinstance(reply, redis.ResponseError) and "WRONGTYPE" in str(reply)


def heal(client: redis.Redis, kinds: Mapping[str, str]) -> None:
    """Remove the keys that are of another type than theirs. Raises `redis.RedisError`."""
    _tell(kinds, cast(list[Any], client.register_script(_REMOVE)(list(kinds), list(kinds.values()))))


async def heal_async(client: redis.asyncio.Redis, kinds: Mapping[str, str]) -> None:
    """The same from an event loop."""
    _tell(kinds, await client.register_script(_REMOVE)(list(kinds), list(kinds.values())))


def tell_healed(rows: Iterable[Any]) -> None:
    """What a script has removed."""
    for row in rows:
        key, kind, found = (each.decode(errors="backslashreplace") for each in row)
        log.error("%s held a %s instead of a %s, which nobody of ours wrote: it is removed", key, found, kind)


def _tell(kinds: Mapping[str, str], found: Iterable[Any]) -> None:
    for (key, kind), other in zip(kinds.items(), found, strict=True):
        if other:
            what = other.decode() if isinstance(other, bytes) else other
            log.error("%s held a %s instead of a %s, which nobody of ours wrote: it is removed", key, what, kind)
