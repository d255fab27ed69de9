"""What each key has used of its quota, counted in Redis for all gateways: exact, whoever is asked.

A request takes a place of its key's minute, and holds as many tokens as it may need until it has ended; then what it
used is counted instead. Who has a token left gets in, so that a quota is passed by what one request used at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from gateway.keys.holder import Holder, Quota
from shared.errors import BrokerUnavailableError, GatewayError, QuotaSpentError, RateLimitedError
from shared.keys import Names

_PATIENCE_S: Final = 5.0
_HELD_S: Final = 3600  # of a request whose gateway died
_BUSY_S: Final = 2.0  # to wait where running requests hold what is left

# All of one key in one hash: the minute and the day that are counted, what was used in them, and `h:ID` = tokens and
# expiry of each running request. Answers {verdict, seconds to wait, requests, tokens of the minute, of the day}.
_TAKE = """
local key, id, wanted = KEYS[1], ARGV[1], tonumber(ARGV[2])
local rpm, tpm, tpd = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local kind = redis.call('TYPE', key).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end
local now = tonumber(redis.call('TIME')[1])
local minute, day = math.floor(now / 60), math.floor(now / 86400)
local had, held = {}, 0
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 2) == 'h:' then
    local amount, ends = string.match(all[i + 1], '^(%d+) (%d+)$')
    if ends and tonumber(ends) > now then held = held + tonumber(amount)
    else redis.call('HDEL', key, all[i]) end
  else had[all[i]] = tonumber(all[i + 1]) or 0 end
end
if had.minute ~= minute then had.requests, had.tokens = 0, 0 end
if had.day ~= day then had.day_tokens = 0 end
local requests, tokens, day_tokens = had.requests or 0, had.tokens or 0, had.day_tokens or 0
local function verdict(number, wait) return {number, wait, requests, tokens, day_tokens} end
if tpd > 0 and day_tokens >= tpd then return verdict(3, (day + 1) * 86400 - now) end
if tpm > 0 and tokens >= tpm then return verdict(2, (minute + 1) * 60 - now) end
if rpm > 0 and requests + tonumber(ARGV[7]) > rpm then return verdict(1, (minute + 1) * 60 - now) end
if tpd > 0 and day_tokens + held >= tpd then return verdict(4, 0) end
if tpm > 0 and tokens + held >= tpm then return verdict(4, 0) end
requests = requests + tonumber(ARGV[7])
redis.call('HSET', key, 'minute', minute, 'day', day, 'requests', requests, 'tokens', tokens, 'day_tokens', day_tokens,
  'h:' .. id, string.format('%d %d', wanted, now + tonumber(ARGV[6])))
redis.call('EXPIRE', key, 172800)
return verdict(0, (minute + 1) * 60 - now)
"""
_SETTLE = """
local key = KEYS[1]
if redis.call('TYPE', key).ok ~= 'hash' then return 0 end
local now = tonumber(redis.call('TIME')[1])
if redis.call('HDEL', key, 'h:' .. ARGV[1]) == 0 then return 0 end
local function add(unit, at, field, also)
  if redis.call('HGET', key, unit) ~= tostring(at) then
    redis.call('HSET', key, unit, at, field, 0)
    if also then redis.call('HSET', key, also, 0) end
  end
  redis.call('HINCRBY', key, field, ARGV[2])
end
add('minute', math.floor(now / 60), 'tokens', 'requests')
add('day', math.floor(now / 86400), 'day_tokens')
return 1
"""
_WORDS: Final = {1: "requests a minute", 2: "tokens a minute", 3: "tokens a day"}
_BUSY: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Of a key when one of its requests was let in: used so far in this minute, and seconds to its end."""

    quota: Quota
    requests: int
    tokens: int
    resets_s: float


class Quotas:
    """Keys without a quota cost nothing here."""

    def __init__(self, broker: redis.asyncio.Redis, names: Names) -> None:
        self._names = names
        self._take = broker.register_script(_TAKE)
        self._settle = broker.register_script(_SETTLE)

    @contextlib.asynccontextmanager
    async def admitted(
        self, holder: Holder, request_id: str, *, tokens: int, used: Callable[[], int], is_again: bool = False
    ) -> AsyncIterator[Allowance | None]:
        """Raises `RateLimitedError` and `BrokerUnavailableError`. `tokens` is how many the request may need, `used()`
        how many it did when the block has ended, however it ends. What is asked of another model because the first
        failed (`is_again`) takes no second place of its minute."""
        if not holder.quota:
            yield None
            return
        allowance = await self._begin(holder, request_id, tokens, 0 if is_again else 1)
        try:
            yield allowance
        finally:
            with contextlib.suppress(BrokerUnavailableError):  # what it holds goes by itself
                await asyncio.shield(self._end(holder, request_id, used()))

    async def _begin(self, holder: Holder, request_id: str, tokens: int, places: int) -> Allowance:
        quota = holder.quota
        limits = (quota.requests_per_minute, quota.tokens_per_minute, quota.tokens_per_day)
        async with _asking():
            verdict, wait_s, requests, used, _ = await self._take(
                keys=[self._names.quota(holder.name)], args=[request_id, tokens, *limits, _HELD_S, places]
            )
        if verdict:
            raise _refusal(holder, int(verdict), float(wait_s))
        return Allowance(quota=quota, requests=int(requests), tokens=int(used), resets_s=float(wait_s))

    async def _end(self, holder: Holder, request_id: str, tokens: int) -> None:
        async with _asking():
            await self._settle(keys=[self._names.quota(holder.name)], args=[request_id, tokens])


def _refusal(holder: Holder, verdict: int, wait_s: float) -> GatewayError:
    if verdict == _BUSY:
        return RateLimitedError(
            f"the running requests of the key {holder.name!r} may need all tokens that it has left",
            retry_after_s=_BUSY_S,
        )
    kind = QuotaSpentError if _WORDS[verdict] == "tokens a day" else RateLimitedError
    return kind(f"the key {holder.name!r} has used up its {_WORDS[verdict]}", retry_after_s=wait_s)


@contextlib.asynccontextmanager
async def _asking() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise BrokerUnavailableError("quotas cannot be counted now", retry_after_s=1) from error
