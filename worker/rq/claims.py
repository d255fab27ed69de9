"""Taking jobs and keeping them alive, one round trip each: RQ's own records, written by scripts.

RQ takes seven round trips from queue to running job and beats for one job at a time. The keys and fields below are
RQ's (pinned by tests/unit/worker/test_rq_worker.py); every tool that reads RQ's registries sees the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import uuid4

import redis

from shared.keys import NO_HOST, Names
from worker.serving.bodies import Body, is_ended

_MAX_BODY_BYTES = 128 * 1024  # of all jobs of one claim: Redis does nothing else meanwhile
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # RQ's own format

# What ends at some time ends by the clock of Redis: those of two machines differ, and the one that is ahead would take
# the other's workers for dead.

# KEYS: queue keys. ARGV: free places, worker, now (text), execution TTL (s), what execution ids begin with, the most
# bytes of bodies to bring along, what keys of bodies and of ended attempts begin with, then a (queue key, job id) per
# popped job.
# A popped job starts only if it still lies in the intermediate list: whoever took it out of there owns it. Free
# places are filled with the oldest job of all queues. Gives [queue name, job id, execution id, job hash, body,
# mark of what has ended] per job; the body is missing when it is big. What RQ could not have queued is dropped: keys
# of other types, and names that RQ refuses, which would end whoever makes a job of them.
# The entry in rq:executions ends before its execution or with it: RQ's `job.cancel()` fails at one without a hash.
_CLAIM = """
local free, worker, text, ttl, room = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6])
local now = tonumber(redis.call('TIME')[1])
local started = {}
local function start(queue, id)
  local key = 'rq:job:' .. id
  if not string.match(id, '^[%w_-]+$') or redis.pcall('HGET', key, 'status') ~= 'queued' then return end
  local hash = redis.call('HGETALL', key)
  local name = string.sub(queue, 10)
  local execution = string.format('%s%04x', ARGV[5], #started)
  local both = id .. ':' .. execution
  redis.call('HSET', 'rq:execution:' .. both, 'id', execution, 'created_at', now, 'last_heartbeat', now,
             'worker_name', worker)
  redis.call('ZADD', 'rq:executions:' .. id, now + ttl, execution)
  redis.call('EXPIRE', 'rq:executions:' .. id, ttl)
  redis.call('EXPIRE', 'rq:execution:' .. both, ttl)
  redis.call('ZADD', 'rq:wip:' .. name, now + ttl, both)
  redis.call('HSET', key, 'status', 'started', 'started_at', text, 'last_heartbeat', text, 'worker_name', worker)
  redis.call('PERSIST', key)
  redis.call('HSET', 'rq:worker:' .. worker, 'state', 'busy', 'current_job', id)
  local body = false
  local size = redis.pcall('STRLEN', ARGV[7] .. id)
  if type(size) == 'number' and size > 0 and size <= room then
    body = redis.call('GET', ARGV[7] .. id)
    room = room - size
  end
  local request = string.match(id, '^(.*)%-%d+$') or ''
  local ended = redis.pcall('GET', ARGV[8] .. request)
  started[#started + 1] = {name, id, execution, hash, body, type(ended) == 'string' and ended}
end
for i = 9, #ARGV, 2 do
  local queue, id = ARGV[i], ARGV[i + 1]
  if redis.call('LREM', queue .. ':intermediate', 1, id) == 1 then start(queue, id) end
end
while #started < free do
  local oldest, first = nil, nil
  for i = 1, #KEYS do
    local id = redis.call('LINDEX', KEYS[i], 0)
    if id then
      local since = redis.pcall('HGET', 'rq:job:' .. id, 'enqueued_at')
      if type(since) ~= 'string' then since = '' end
      if not oldest or since < first then oldest, first = KEYS[i], since end
    end
  end
  if not oldest then break end
  start(oldest, redis.call('LPOP', oldest))
end
return started
"""

# ARGV: worker, now (text), execution TTL (s), worker TTL (s), what keys of ended attempts begin with, then
# (queue name, job id, execution id) each.
# Gives nothing when Redis does not know the worker (it came back empty); else [is suspended, status of each job]. A job
# whose attempt has ended counts as cancelled: nobody may have heard of it.
_BEAT = """
local worker, text, now, ttl = ARGV[1], ARGV[2], tonumber(redis.call('TIME')[1]), tonumber(ARGV[3])
local key = 'rq:worker:' .. worker
if redis.call('HEXISTS', key, 'birth') == 0 then return {} end
redis.call('HSET', key, 'last_heartbeat', text)
redis.call('EXPIRE', key, ARGV[4])
local out = {redis.call('EXISTS', 'rq:suspended')}
for i = 6, #ARGV, 3 do
  local queue, id, execution = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local both = id .. ':' .. execution
  local status = redis.call('HGET', 'rq:job:' .. id, 'status')
  if status == 'started' then
    redis.call('HSET', 'rq:execution:' .. both, 'id', execution, 'last_heartbeat', now, 'worker_name', worker)
    redis.call('HSETNX', 'rq:execution:' .. both, 'created_at', now)
    redis.call('ZADD', 'rq:executions:' .. id, now + ttl, execution)
    redis.call('EXPIRE', 'rq:executions:' .. id, ttl)
    redis.call('EXPIRE', 'rq:execution:' .. both, ttl)
    redis.call('ZADD', 'rq:wip:' .. queue, 'XX', now + ttl, both)
    redis.call('HSET', 'rq:job:' .. id, 'last_heartbeat', text)
    local request, attempt = string.match(id, '^(.*)%-(%d+)$')
    local ended = redis.pcall('GET', ARGV[5] .. (request or ''))
    if type(ended) == 'string' and (tonumber(ended) or math.huge) >= tonumber(attempt or 0) then status = 'canceled' end
  end
  out[#out + 1] = status or ''
end
return out
"""

# KEYS: intermediate list, queue, job. ARGV: job id. A job that was popped and never started goes back to the front.
_GIVE_BACK = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if redis.pcall('HGET', KEYS[3], 'status') == 'queued' then redis.call('LPUSH', KEYS[2], ARGV[1]) end
return 1
"""

# KEYS: from, to. ARGV: name of the queue behind `to`. Moves every job to the other queue's end; gives how many.
_MOVE = """
local moved = 0
for _, list in ipairs({KEYS[1] .. ':intermediate', KEYS[1]}) do
  while true do
    local id = redis.call('LPOP', list)
    if not id then break end
    if redis.pcall('HGET', 'rq:job:' .. id, 'status') == 'queued' then
      redis.call('HSET', 'rq:job:' .. id, 'origin', ARGV[1])
      redis.call('RPUSH', KEYS[2], id)
      moved = moved + 1
    end
  end
end
redis.call('SREM', 'rq:queues', KEYS[1])
if moved > 0 then redis.call('SADD', 'rq:queues', KEYS[2]) end
return moved
"""


@dataclass(frozen=True, slots=True)
class Popped:
    """A job id that a waiter moved to its queue's intermediate list."""

    queue_key: str
    job_id: str

    @classmethod
    def of(cls, queue_key: str, job_id: bytes) -> Popped:
        """Whatever lies in the queue, which need not be text, can be found again by it."""
        return cls(queue_key, job_id.decode(errors="surrogateescape"))

    @property
    def raw_id(self) -> bytes:
        return self.job_id.encode(errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is ours now. `fields` is its hash as it was in the queue, `body` what Redis holds under the request's
    id; None when that is for another round trip."""

    queue: str
    job_id: str
    execution_id: str
    fields: dict[bytes, bytes]
    body: Body | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A job we run."""

    queue: str
    job_id: str
    execution_id: str


@dataclass(frozen=True, slots=True)
class Pulse:
    """What Redis says to a heartbeat: the status of each held job, in order; "" for one that is gone."""

    is_suspended: bool
    statuses: tuple[str, ...]


class Claims:
    """The scripts of one worker. Every method may raise `redis.RedisError`."""

    def __init__(
        self, client: redis.Redis, names: Names, worker: str, *, execution_ttl_s: float, worker_ttl_s: int
    ) -> None:
        self._names = names
        self._worker = worker
        self._ttl_s = max(1, round(execution_ttl_s))
        self._worker_ttl_s = worker_ttl_s
        self._claim = client.register_script(_CLAIM)
        self._beat = client.register_script(_BEAT)
        self._give_back = client.register_script(_GIVE_BACK)

    def claim(self, queue_keys: Sequence[str], popped: Sequence[Popped], free: int, now: datetime) -> list[Claimed]:
        """Start the popped jobs, then the oldest others until `free` have been started."""
        arguments: list[Any] = [free, self._worker, now.strftime(_TIME), self._ttl_s]
        arguments += [uuid4().hex[:-4], _MAX_BODY_BYTES, self._names.body_prefix(NO_HOST), self._names.ended_prefix()]
        for pop in popped:
            arguments += [pop.queue_key, pop.raw_id]
        return [_claimed(row) for row in cast(list[Any], self._claim(list(queue_keys), arguments))]

    def beat(self, held: Sequence[Held], now: datetime) -> Pulse | None:
        """Keep worker and jobs alive. None: Redis has forgotten this worker."""
        arguments: list[Any] = [self._worker, now.strftime(_TIME), self._ttl_s, self._worker_ttl_s]
        arguments.append(self._names.ended_prefix())
        for job in held:
            arguments += [job.queue, job.job_id, job.execution_id]
        reply = cast(list[Any], self._beat([], arguments))
        if not reply:
            return None
        return Pulse(is_suspended=bool(reply[0]), statuses=tuple(status.decode() for status in reply[1:]))

    def give_back(self, popped: Popped) -> bool:
        """Put a popped job back to the front of its queue; False when somebody else has it."""
        list_keys: list[str | bytes] = [
            f"{popped.queue_key}:intermediate",
            popped.queue_key,
            b"rq:job:" + popped.raw_id,
        ]
        return bool(self._give_back(list_keys, [popped.raw_id]))


def _claimed(row: list[Any]) -> Claimed:
    queue, job, execution, flat, data, ended = row
    return Claimed(
        queue.decode(),
        job.decode(),
        execution.decode(),
        dict(zip(flat[::2], flat[1::2], strict=True)),
        None if data is None else Body(data=data, is_ended=ended is not None and is_ended(ended, _attempt(job))),
    )


def _attempt(job_id: bytes) -> int:
    """The attempt that an id ends with; 0 in an id that is none of ours."""
    number = job_id.rpartition(b"-")[2]
    return int(number) if number.isdigit() else 0


def move_jobs(client: redis.Redis, from_key: str, to_key: str, to_name: str) -> int:
    """Empty one queue into another, in order; how many jobs were moved."""
    return int(cast(int, client.register_script(_MOVE)([from_key, to_key], [to_name])))
