"""Taking jobs and keeping them alive, one round trip each: RQ's own records, written by scripts.

A worker has a list of jobs for each lane: for each class, and for each kind of work that is done beside the batch.
Whoever puts a job there rings the worker's bell in the same write; the bell holds no job, so nothing is lost with it,
and a job is taken off its list and started in one script, so there is no place between the two where it could be left
behind. From then on the job belongs to the queue of its model and lane, where all registries are: none is left behind
by a worker that is gone.

RQ takes seven round trips from queue to running job and beats for one job at a time. The keys and fields below are
RQ's (pinned by tests/unit/worker/test_rq_worker.py); every tool that reads RQ's registries sees the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from uuid import uuid4

import redis
from redis.exceptions import NoScriptError

from shared.clock import RedisClock
from shared.healing import HEAL, tell_healed
from shared.keys import BODY_AT, Names, host_of
from shared.notes import read_note
from shared.places import NONE, Counts
from shared.request import PRIORITIES, Priority
from shared.work import LANES, LANES_BESIDE
from worker.rq.gate import Quota
from worker.serving.bodies import Body

_MAX_BODY_BYTES = 128 * 1024  # of all jobs of one claim: Redis does nothing else meanwhile
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # RQ's own format
_IN_BATCH = ""  # the group of all classes
_RENEWED_EVERY_S = 4.0  # RQ's record of a worker without jobs, a third of its life
_RUN_ONCE_S = 3600  # where a job says nothing of when it ends

# What ends at some time ends by the clock of Redis: those of two machines differ, and the one that is ahead would take
# the other's workers for dead.

# KEYS: the counter of what was put on the lists, then the lists, highest class first. ARGV: worker, now (text),
# execution TTL (s), what execution ids begin with, the most bytes of bodies to bring along, what keys of bodies, of
# ended attempts and of attempts that have run begin with, what a byte of a body takes (s) where nothing was predicted,
# then for each list the queue whose registries its jobs belong to, the group that it is counted in, how many may be
# started in all, those of the group's lists before it included, and how many seconds of their prefill may have been
# started before one more is. Gives [time, job per started job, waiting jobs per list, counter, what was healed], a job
# being [list's number, job id, execution id, hash, size of its body, body, what its placing noted]; the body is missing
# when it is big. What was noted stays until a lease counts the job, marked with "!": who places meanwhile counts it
# among those held. An attempt runs once: who takes it says so for as long as its job could live. What RQ could not have
# queued is dropped: keys of other types, and names that RQ refuses, which would end whoever makes a job of them. The
# body of what is not run is removed, and one that lies for another host, where nobody will look for it. Keys
# of a wrong type, which nobody of ours wrote, are removed before anything is taken: a script that stops in the middle
# would have taken jobs and told nobody. The entry in rq:executions ends before its execution or with it: RQ's
# `job.cancel()` fails at one without a hash.
_CLAIM = (
    """
local worker, text, ttl, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local bodies, ends, runs, per_byte = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local time = redis.call('TIME')
local now = tonumber(time[1])
local started, begun, ahead = {}, {}, {}
HEAL
heal(KEYS[1], 'hash')
heal('rq:queues', 'set')
heal('rq:worker:' .. worker, 'hash')
for list = 2, #KEYS do
  heal(KEYS[list], 'list')
  heal('rq:wip:' .. ARGV[4 * list + 2], 'zset')
end
local function at_other_host(key)
  local host = redis.pcall('HGET', key, 'BODY_AT')
  local is_host = type(host) == 'string' and string.match(host, '^[%w_-]*$')
  local prefix = is_host and string.gsub(bodies, '[^:]*:$', '') .. host .. ':'
  return prefix and prefix ~= bodies and prefix
end
local function drop_body(key, id)
  redis.call('DEL', bodies .. id)
  local prefix = at_other_host(key)
  if prefix then redis.pcall('DEL', prefix .. id) end
end
local function refuse(key, id)
  drop_body(key, id)
  redis.call('HDEL', KEYS[1], id)
  redis.call('HSET', key, 'status', 'canceled')
  redis.call('EXPIRE', key, 60)
end
local function start(list, id, origin, group)
  local key = 'rq:job:' .. id
  local status = string.match(id, '^[%w_-]+$') and redis.pcall('HGET', key, 'status')
  if status ~= 'queued' then
    if status ~= 'started' and status ~= nil then drop_body(key, id) end
    redis.call('HDEL', KEYS[1], id)
    return
  end
  local request, attempt = string.match(id, '^(.*)%-(%d+)$')
  local ended = redis.pcall('GET', ends .. (request or ''))
  if type(ended) == 'string' and (tonumber(ended) or math.huge) >= tonumber(attempt or 0) then
    return refuse(key, id)
  end
  heal('rq:executions:' .. id, 'zset')
  local left = redis.call('TTL', key)
  if left <= 0 then left = RUN_ONCE end
  if not redis.call('SET', runs .. id, worker, 'NX', 'EX', left) then return refuse(key, id) end
  local noted = redis.call('HGET', KEYS[1], id) or ''
  if noted ~= '' then redis.call('HSET', KEYS[1], id, '!' .. noted) end
  local hash = redis.call('HGETALL', key)
  local prefix = at_other_host(key)
  if prefix then redis.pcall('DEL', prefix .. id) end
  local execution = string.format('%s%04x', ARGV[4], #started)
  local both = id .. ':' .. execution
  redis.call('HSET', 'rq:execution:' .. both, 'id', execution, 'created_at', now, 'last_heartbeat', now,
             'worker_name', worker)
  redis.call('ZADD', 'rq:executions:' .. id, now + ttl, execution)
  redis.call('EXPIRE', 'rq:executions:' .. id, ttl)
  redis.call('EXPIRE', 'rq:execution:' .. both, ttl)
  redis.call('SADD', 'rq:queues', 'rq:queue:' .. origin)
  redis.call('ZADD', 'rq:wip:' .. origin, now + ttl, both)
  redis.call('HSET', key, 'status', 'started', 'started_at', text, 'last_heartbeat', text, 'worker_name', worker,
             'origin', origin)
  redis.call('PERSIST', key)
  redis.call('HSET', 'rq:worker:' .. worker, 'state', 'busy', 'current_job', id)
  local body = false
  local size = redis.pcall('STRLEN', bodies .. id)
  if type(size) ~= 'number' then size = 0 end
  if size > 0 and size <= room then
    body = redis.call('GET', bodies .. id)
    room = room - size
  end
  begun[group] = (begun[group] or 0) + 1
  local seconds = tonumber(string.match(noted, '^[^ ]* ([^ ]*)') or '') or 0
  if seconds <= 0 then seconds = size * per_byte end
  ahead[group] = (ahead[group] or 0) + seconds
  started[#started + 1] = {list, id, execution, hash, size, body, noted}
end
local waiting = {}
for list = 2, #KEYS do
  local at = 4 * list + 2
  local origin, group, most, budget = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  while (begun[group] or 0) < most and (ahead[group] or 0) < budget do
    local id = redis.call('LPOP', KEYS[list])
    if not id then break end
    start(list - 2, id, origin, group)
  end
end
for list = 2, #KEYS do waiting[#waiting + 1] = redis.call('LLEN', KEYS[list]) end
return {time, started, waiting, counted(redis.call('HGET', KEYS[1], 'v')), healed}
""".replace("RUN_ONCE", str(_RUN_ONCE_S))
    .replace("BODY_AT", BODY_AT)
    .replace("HEAL", HEAL)
)

# KEYS: as above. ARGV: worker, now (text), execution TTL (s), worker TTL (s), what keys of ended attempts begin with, 1
# when RQ's record of the worker is to be renewed, then (queue name, job id, execution id) each. Gives nothing when
# Redis does not know the worker (it came back empty); else [time, is suspended, waiting jobs per list, counter, status
# of each job, what was healed]. A job whose attempt has ended counts as cancelled: nobody may have heard of it. Workers
# that have nothing to do beat, too, each second: what is not needed then is not asked then.
_BEAT = """
local worker, text, time, ttl = ARGV[1], ARGV[2], redis.call('TIME'), tonumber(ARGV[3])
local now = tonumber(time[1])
local key = 'rq:worker:' .. worker
HEAL
if redis.pcall('HEXISTS', key, 'birth') ~= 1 then return {} end
if ARGV[6] == '1' then
  redis.call('HSET', key, 'last_heartbeat', text)
  redis.call('EXPIRE', key, ARGV[4])
end
local waiting, statuses, suspended = {}, {}, 0
local has_any = redis.call('EXISTS', 'rq:suspended', unpack(KEYS, 2)) > 0
if has_any then
  suspended = redis.call('EXISTS', 'rq:suspended')
  for list = 2, #KEYS do heal(KEYS[list], 'list') end
end
for list = 2, #KEYS do waiting[#waiting + 1] = has_any and redis.call('LLEN', KEYS[list]) or 0 end
local placed = redis.pcall('HGET', KEYS[1], 'v')
if type(placed) == 'table' then heal(KEYS[1], 'hash') end
for i = 7, #ARGV, 3 do
  local queue, id, execution = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local both = id .. ':' .. execution
  local status = redis.pcall('HGET', 'rq:job:' .. id, 'status')
  if type(status) ~= 'string' then status = '' end
  if status == 'started' then
    heal('rq:executions:' .. id, 'zset')
    heal('rq:execution:' .. both, 'hash')
    heal('rq:wip:' .. queue, 'zset')
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
  statuses[#statuses + 1] = status
end
return {time, suspended, waiting, counted(placed), statuses, healed}
""".replace("HEAL", HEAL)

# KEYS: from, to. ARGV: name of the queue behind `to`. Moves every job to the other list's front, in order; gives how
# many. They have waited longer than what lies there.
_MOVE_ALL = """
local moved = 0
while true do
  local id = redis.call('RPOP', KEYS[1])
  if not id then break end
  if redis.pcall('HGET', 'rq:job:' .. id, 'status') == 'queued' then
    redis.call('HSET', 'rq:job:' .. id, 'origin', ARGV[1])
    redis.call('LPUSH', KEYS[2], id)
    moved = moved + 1
  end
end
redis.call('SREM', 'rq:queues', KEYS[1])
if moved > 0 then redis.call('SADD', 'rq:queues', KEYS[2]) end
return moved
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is ours now, of `queue`, which holds its registries. `fields` is its hash as it was on the list,
    `body` what Redis holds under its id; None when that is for another round trip. `prefill_s` is its predicted
    prefill, 0 where nothing was predicted."""

    queue: str
    lane: str
    job_id: str
    execution_id: str
    fields: dict[bytes, bytes]
    body_bytes: int = 0
    body: Body | None = None
    prefill_s: float = 0.0

    @property
    def priority(self) -> Priority | None:
        """Its class; None for what is done beside the batch."""
        return next((priority for priority in PRIORITIES if priority == self.lane), None)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits on a worker's lists, by class, and beside the batch by lane, and how many jobs had ever been put there
    when it was counted."""

    waiting: Counts = NONE
    placed: int = 0
    beside: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not any(self.by_lane)

    @property
    def by_lane(self) -> tuple[int, ...]:
        """How many wait on each list, in the order of `LANES`."""
        return (*self.waiting, *(self.beside.get(lane, 0) for lane in LANES_BESIDE))


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim started and what it left."""

    jobs: tuple[Claimed, ...]
    backlog: Backlog


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
    backlog: Backlog


class AskedBeat:
    """A beat on its way, and what came of it."""

    def __init__(self, script: str, names: Sequence[str], arguments: Sequence[Any], *, renews: bool) -> None:
        self.arguments = arguments
        self.renews = renews
        self.reply: Any = None
        self.sent_s = self.heard_s = time.monotonic()
        self._script, self._names = script, names

    def ask(self, pipe: Any) -> None:
        self.sent_s = time.monotonic()
        pipe.evalsha(self._script, len(self._names), *self._names, *self.arguments)

    def hear(self, reply: Any) -> None:
        self.reply, self.heard_s = reply, time.monotonic()


class Claims:
    """The scripts of one worker. Claims and beats bring `clock` the time. Every method may raise `redis.RedisError`."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        model: str,
        worker: str,
        *,
        clock: RedisClock,
        execution_ttl_s: float,
        worker_ttl_s: int,
    ) -> None:
        self._names = names
        self._clock = clock
        self._worker = worker
        self._ttl_s = max(1, round(execution_ttl_s))
        self._worker_ttl_s = worker_ttl_s
        self._renewed_s = -math.inf
        self._queues = [names.queue(model, lane) for lane in LANES]
        lists = [list_key(names.worker_queue(model, worker, lane)) for lane in LANES]
        self._keys = [names.placed(worker), *lists]
        self._claim = client.register_script(_CLAIM)
        self._beat = client.register_script(_BEAT)

    def claim(self, quotas: Sequence[Quota], now: datetime, *, s_per_byte: float = 0.0) -> Taken:
        """Start what waits, the highest class first, within the quota of each lane. `s_per_byte` is what a byte of a
        body takes where nothing was predicted, 0 while unknown."""
        names = self._names
        arguments: list[Any] = [self._worker, now.strftime(_TIME), self._ttl_s, uuid4().hex[:-4], _MAX_BODY_BYTES]
        arguments += [names.body_prefix(host_of(self._worker)), names.ended_prefix(), names.run_once_prefix()]
        arguments.append(s_per_byte)
        for queue, lane, quota in zip(self._queues, LANES, quotas, strict=True):
            group = lane if lane in LANES_BESIDE else _IN_BATCH
            arguments += [queue, group, quota.most, quota.ahead_s]
        sent_s = time.monotonic()
        now_reply, jobs, waiting, placed, healed = cast(list[Any], self._claim(self._keys, arguments))
        tell_healed(healed)
        self._clock.note(now_reply, sent_s, time.monotonic())
        return Taken(tuple(self._claimed(row) for row in jobs), _backlog(waiting, placed))

    def beat(self, held: Sequence[Held], now: datetime) -> Pulse | None:
        """Keep worker and jobs alive. None: Redis has forgotten this worker."""
        asked = self.asking(held, now)
        asked.hear(self._beat(self._keys, asked.arguments))
        return self.felt(asked)

    def asking(self, held: Sequence[Held], now: datetime) -> AskedBeat:
        """A beat, to be asked along with something else; `felt` says what came of it."""
        arguments: list[Any] = [self._worker, now.strftime(_TIME), self._ttl_s, self._worker_ttl_s]
        is_due = bool(held) or time.monotonic() - self._renewed_s >= _RENEWED_EVERY_S
        arguments += [self._names.ended_prefix(), int(is_due)]
        for job in held:
            arguments += [job.queue, job.job_id, job.execution_id]
        return AskedBeat(self._beat.sha, self._keys, arguments, renews=is_due)

    def felt(self, asked: AskedBeat) -> Pulse | None:
        """None: Redis has forgotten this worker."""
        reply = asked.reply
        if isinstance(reply, NoScriptError):  # it was emptied
            asked.hear(reply := self._beat(self._keys, asked.arguments))
        if isinstance(reply, redis.RedisError):
            raise reply
        if not reply:
            return None
        self._renewed_s = asked.sent_s if asked.renews else self._renewed_s
        now_reply, is_suspended, waiting, placed, statuses, healed = reply
        tell_healed(healed)
        self._clock.note(now_reply, asked.sent_s, asked.heard_s)
        return Pulse(
            bool(is_suspended), tuple(status.decode(errors="replace") for status in statuses), _backlog(waiting, placed)
        )

    def _claimed(self, row: list[Any]) -> Claimed:
        number, job, execution, flat, body_bytes, data, noted = row
        return Claimed(
            self._queues[number],
            LANES[number],
            job.decode(),
            execution.decode(),
            dict(zip(flat[::2], flat[1::2], strict=True)),
            body_bytes,
            None if data is None else Body(data=data),
            read_note(noted.decode(errors="replace")).prefill_s,
        )


def list_key(queue: str) -> str:
    """The Redis list behind an RQ queue."""
    return f"rq:queue:{queue}"


def _backlog(waiting: list[int], placed: int) -> Backlog:
    depths = dict(zip(LANES, waiting, strict=True))
    return Backlog(tuple(depths.pop(priority) for priority in PRIORITIES), placed, depths)


def move_jobs(client: redis.Redis, from_key: str, to_key: str, to_name: str) -> int:
    """Empty one list into the front of another, in order; how many jobs were moved."""
    return int(cast(int, client.register_script(_MOVE_ALL)([from_key, to_key], [to_name])))
