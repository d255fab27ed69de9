"""Which day conversations began on, where all workers of a deployment find it (`worker.prompt.days`).

Digests and dates, nothing of what was said.
"""

from __future__ import annotations

import datetime
import logging
from typing import Any, cast

import redis

from shared.healing import HEAL, tell_healed
from shared.keys import DAY_TTL_S, HEAD_DAY_TTL_S, Names

log = logging.getLogger(__name__)

# KEYS: a conversation's day, its head's. ARGV: the day that is proposed, whether prompts of the conversation have told
# it, whether the conversation goes on, and for how many seconds its day and the head's are kept.
_AGREE = (
    HEAL
    + """
heal(KEYS[1], 'string')
heal(KEYS[2], 'string')
local own, head = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local day = own or (ARGV[2] == '1' and ARGV[1]) or head or ARGV[1]
if ARGV[3] == '1' then redis.call('SET', KEYS[1], day, 'EX', ARGV[4]) end
if not head or head == day then redis.call('SET', KEYS[2], day, 'EX', ARGV[5]) end
return {day, healed}
"""
)


class RedisDays:
    """See `SharedDays`. Without Redis, and where it refuses, each worker keeps its own."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._agree = client.register_script(_AGREE)
        self._told = ""  # the last error

    def agree(
        self, conversation: bytes, head: bytes, day: datetime.datetime, *, is_known: bool, goes_on: bool
    ) -> datetime.datetime | None:
        keys = [self._names.day(conversation.hex()), self._names.day(head.hex())]
        arguments: list[str | int] = [day.isoformat(), int(is_known), int(goes_on), DAY_TTL_S, HEAD_DAY_TTL_S]
        try:
            told, healed = cast(list[Any], self._agree(keys, arguments))
            tell_healed(healed)
            return self._read(told, keys)
        except redis.RedisError as error:
            self._tell(str(error))
            return None

    def _tell(self, error: str) -> None:
        """Once: a Redis user that an older door made may not ask at all."""
        if error != self._told:
            log.warning("the day that a conversation began on is this worker's own: %s", error)
        self._told = error

    def _read(self, told: bytes, keys: list[str]) -> datetime.datetime | None:
        """What is no time with its zone is removed. Raises `redis.RedisError`."""
        try:
            day = datetime.datetime.fromisoformat(told.decode())
        except ValueError:
            day = None
        if day is None or day.tzinfo is None:
            log.error("%s or %s held no time, which nobody of ours wrote: both are removed", *keys)
            self._client.delete(*keys)
            return None
        return day
