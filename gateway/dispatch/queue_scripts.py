"""What a gateway does to a queue, each in one step: a job lies in exactly one list, and its record says which.

A job's list is found through its record's `origin`, never passed in: whoever found a worker dead may have moved it.
The owner of a request, the gateway that its envelope names, is the only one that places, moves and cancels its job.

A body lies in Redis while its job waits or is started, and no longer: who cancels a job that nobody has removes it,
and so do the worker that ends the job, the one that refuses it, and whoever buries the worker that had it. The job's
record says for which host it lies.
"""

from shared.healing import HEAL
from shared.keys import BODY_AT, HOME_TTL_S, WHY_TTL_S

# Before the first write, what nobody of ours wrote goes: a script that stops in the middle would leave a job that its
# client believes refused.
_HEAL = (
    HEAL
    + """
local kinds = {[KEYS[2]] = 'list', [KEYS[3]] = 'list', [KEYS[4]] = 'hash', [KEYS[6]] = 'hash', ['rq:queues'] = 'set',
               [KEYS[7]] = 'zset', [KEYS[8]] = 'hash', [KEYS[9]] = 'string'}
for key, kind in pairs(kinds) do heal(key, kind) end
local placed = redis.call('HGET', KEYS[4], 'v')
if placed and counted(placed) ~= tonumber(placed) then
  redis.call('HDEL', KEYS[4], 'v')
  healed[#healed + 1] = {KEYS[4], 'whole number', 'text'}
end
"""
)

# The job goes on the list behind all with a lower score, is noted and counted, and the bell rings. Nothing is noted of
# jobs that come without a score: they stand where they came.
_PUT = """
redis.call('SADD', 'rq:queues', KEYS[2])
local score = tonumber(ARGV[6])
local ids = score and redis.call('LRANGE', KEYS[2], -128, -1) or {}
local at = #ids
while at > 0 do
  local note = redis.call('HGET', KEYS[4], ids[at]) or ''
  local other = tonumber(string.match(note, '^[^ ]* [^ ]* ([^ ]*)') or '')
  if not other or other <= score then break end
  at = at - 1
end
if at == #ids then
  redis.call('RPUSH', KEYS[2], ARGV[1])
elseif at == 0 then
  redis.call('LINSERT', KEYS[2], 'BEFORE', ids[1], ARGV[1])
else
  redis.call('LINSERT', KEYS[2], 'AFTER', ids[at], ARGV[1])
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[4], ARGV[1], ARGV[5]) end
local now = tonumber(redis.call('TIME')[1])
if ARGV[7] == '1' then redis.call('HSET', KEYS[4], 'cold', now) end
local counter = redis.call('HINCRBY', KEYS[4], 'v', 1)
redis.call('EXPIRE', KEYS[4], ARGV[3])
redis.call('LPUSH', KEYS[3], 1)
redis.call('LTRIM', KEYS[3], 0, 0)
redis.call('EXPIRE', KEYS[3], ARGV[3])
local places = tonumber(ARGV[10])
if places > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', now)
  for i = 11, 10 + places do redis.call('ZADD', KEYS[7], 'GT', now + tonumber(ARGV[8]), ARGV[i]) end
  redis.call('EXPIRE', KEYS[7], ARGV[8])
end
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[8], ARGV[1], ARGV[9])
  redis.call('EXPIRE', KEYS[8], WHY_TTL)
end
local home = ARGV[11 + places]
if home ~= '' then
  local known = redis.call('GET', KEYS[9]) or ''
  local was, turn, moved = string.match(known, '^(%S+) (%d+) (%d+)$')
  turn = (tonumber(turn or 0) or 0) + 1
  if was and was ~= home then moved = turn end
  redis.call('SET', KEYS[9], home .. ' ' .. turn .. ' ' .. (moved or 0), 'EX', HOME_TTL)
  if ARGV[12 + places] == '1' then redis.call('SET', KEYS[10], home, 'EX', HOME_TTL) end
end
return {counter, healed}
""".replace("WHY_TTL", str(WHY_TTL_S)).replace("HOME_TTL", str(HOME_TTL_S))

# KEYS: the worker's lease, its list, its bell, its counter and notes, the body, the job, what the worker will have
# computed soon, the explanation, the conversation's home, and the user's. ARGV: job id, body, seconds that both live,
# version that was seen (-1: any), note, score, whether the conversation is new to all, seconds that tags last,
# explanation, how many tags, those, the worker where it is to be the conversation's home, whether the user's is to be
# written, too, then the job's fields. Gives [the counter, what was healed], for the counter -1 when the worker is gone,
# -2 when something was put there since it was looked at, and nothing is written. A job that is there already stays as
# it is: whoever did not hear that it was placed may place it again.
PLACE = (
    _HEAL
    + """
local status = redis.call('HGET', KEYS[6], 'status')
if status == 'queued' or status == 'started' then return {counted(redis.call('HGET', KEYS[4], 'v')), healed} end
if redis.call('EXISTS', KEYS[1]) == 0 then return {-1, healed} end
local seen = tonumber(ARGV[4])
if seen >= 0 and counted(redis.call('HGET', KEYS[4], 'v')) ~= seen then return {-2, healed} end
redis.call('SET', KEYS[5], ARGV[2], 'EX', ARGV[3])
redis.call('HSET', KEYS[6], unpack(ARGV, 13 + tonumber(ARGV[10])))
redis.call('EXPIRE', KEYS[6], ARGV[3])
"""
    + _PUT
)

# KEYS: as for PLACE, then the body as it lies now, and the notes of the worker where it waits. ARGV: as for PLACE, the
# fields being those that change: name of the queue behind the list, the job's data for its new worker. Gives as
# PLACE does; 0 when the job waits no longer: it was claimed, and frames will say by whom, or
# cancelled.
MOVE = (
    _HEAL
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return {-1, healed} end
local origin = redis.pcall('HGET', KEYS[6], 'origin')
if type(origin) ~= 'string' or redis.pcall('LREM', 'rq:queue:' .. origin, 1, ARGV[1]) ~= 1 then return {0, healed} end
redis.call('DEL', KEYS[11])
redis.pcall('HDEL', KEYS[12], ARGV[1])
redis.call('SET', KEYS[5], ARGV[2], 'EX', ARGV[3])
redis.call('HSET', KEYS[6], unpack(ARGV, 13 + tonumber(ARGV[10])))
"""
    + _PUT
)

# KEYS: the mark of what has ended, the job, the body, the registry of cancelled jobs, the notes of the worker where it
# waits, as far as its owner knows: it may be moving. ARGV: job id, attempt, seconds that the record lives on, what the
# keys of all bodies and of all notes begin with. Gives [1 when the job still waited, what was healed]:
# it then ends as RQ's own `Job.cancel` would leave it. RQ never trims that registry, so that is done here. The first
# write takes no memory: a Redis that is full lets a script go on that has begun to write, and this one makes room.
CANCEL = (
    HEAL
    + """
local function drop_body()
  redis.call('DEL', KEYS[3])
  local host = redis.pcall('HGET', KEYS[2], 'BODY_AT')
  if type(host) == 'string' and string.match(host, '^[%w_-]*$') then
    redis.call('DEL', ARGV[4] .. host .. ':' .. ARGV[1])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
local ended = redis.pcall('GET', KEYS[1])
if type(ended) ~= 'string' or (tonumber(ended) or 0) < tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
local origin = redis.pcall('HGET', KEYS[2], 'origin')
if type(origin) ~= 'string' or redis.pcall('LREM', 'rq:queue:' .. origin, 1, ARGV[1]) ~= 1 then
  if redis.pcall('HGET', KEYS[2], 'status') ~= 'started' then drop_body() end
  return {0, healed}
end
heal(KEYS[4], 'zset')
redis.pcall('HDEL', KEYS[5], ARGV[1])
local worker = string.match(origin, '.*@([^@!]+)') or ''
local host = string.match(worker, '^([^.]+)%.')
if host then
  redis.call('DEL', ARGV[4] .. host .. ':' .. ARGV[1])
  redis.pcall('HDEL', ARGV[5] .. worker, ARGV[1])
end
drop_body()
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[2], 'status', 'canceled')
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[4], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - tonumber(ARGV[3]))
return {1, healed}
""".replace("BODY_AT", BODY_AT)
)

# All that a placement is decided on, of one moment. KEYS: the conversation's home and the user's, then for each worker
# its lease, its counter and notes, what it has in memory, what its host has on disk, what it will have soon, and its
# lists; then what each host has on disk whose files others may read. ARGV: how many lists a worker has, how many such
# hosts there are, then tags, the deepest first.
# Gives [time, home, the user's, then for each worker [lease, its notes and counter, (number of the deepest tag that is
# there, from 1, and its tokens) for memory and disk, the number of the deepest that will be there soon, lengths of
# lists], then for each of those hosts [number of the deepest tag, its tokens]]. What has another type than it should is
# nothing.
LOOK = """
local function plain(value) return type(value) == 'string' and value end
local now = redis.call('TIME')
local seconds = tonumber(now[1])
local lists = tonumber(ARGV[1])
local lenders = tonumber(ARGV[2])
local tags = {unpack(ARGV, 3)}
local function deepest(key, least)
  if #tags == 0 then return 0, 0 end
  local found = redis.pcall('ZMSCORE', key, unpack(tags))
  if found.err then return 0, 0 end
  for i = 1, #tags do
    local tokens = tonumber(found[i] or 0) or 0
    if tokens > least and tokens < 9007199254740992 then return i, found[i] end
  end
  return 0, 0
end
local result = {now, plain(redis.pcall('GET', KEYS[1])), plain(redis.pcall('GET', KEYS[2]))}
for at = 3, #KEYS - lenders, 5 + lists do
  local notes = redis.pcall('HGETALL', KEYS[at + 1])
  local memory, memory_tokens = deepest(KEYS[at + 2], 0)
  local disk, disk_tokens = deepest(KEYS[at + 3], 0)
  local soon = deepest(KEYS[at + 4], seconds)
  local lengths = {}
  for list = 0, lists - 1 do
    local length = redis.pcall('LLEN', KEYS[at + 5 + list])
    lengths[list + 1] = type(length) == 'number' and length or 0
  end
  result[#result + 1] = {plain(redis.pcall('GET', KEYS[at])), notes.err and {} or notes, memory, memory_tokens, disk,
                         disk_tokens, soon, lengths}
end
for at = #KEYS - lenders + 1, #KEYS do result[#result + 1] = {deepest(KEYS[at], 0)} end
return result
"""
