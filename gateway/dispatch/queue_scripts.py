"""What a gateway does to a queue, each in one step: a job lies in exactly one list, and its record says which.

A job's list is found through its record's `origin`, never passed in: whoever found a worker dead may have moved it.
The owner of a request, the gateway that its envelope names, is the only one that places, moves and cancels its job.
"""

# Before the first write, what nobody of ours wrote goes: a script that stops in the middle would leave a job that its
# client believes refused.
_HEAL = """
local kinds = {[KEYS[2]] = 'list', [KEYS[3]] = 'list', [KEYS[4]] = 'hash', [KEYS[6]] = 'hash', ['rq:queues'] = 'set'}
for key, kind in pairs(kinds) do
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
end
"""

# The job goes on the list, is counted, and the bell rings.
_PUT = """
redis.call('SADD', 'rq:queues', KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
local counter = redis.call('HINCRBY', KEYS[4], 'v', 1)
redis.call('EXPIRE', KEYS[4], ARGV[3])
redis.call('LPUSH', KEYS[3], 1)
redis.call('LTRIM', KEYS[3], 0, 0)
redis.call('EXPIRE', KEYS[3], ARGV[3])
return counter
"""

# KEYS: the worker's lease, its list, its bell, its counter, the body, the job. ARGV: job id, body, seconds that both
# live, then the job's fields. Gives the counter; -1 when the worker is gone, and nothing
# is written.
PLACE = (
    _HEAL
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
redis.call('SET', KEYS[5], ARGV[2], 'EX', ARGV[3])
redis.call('HSET', KEYS[6], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[6], ARGV[3])
"""
    + _PUT
)

# KEYS: as for PLACE, then the body as it lies now. ARGV: job id, body, seconds that both live, name of the queue behind
# the list, the job's data for its new worker. Gives the counter; -1 when the worker is gone, 0 when the job waits no
# longer: it was claimed, and frames will say by whom, or cancelled.
MOVE = (
    _HEAL
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local origin = redis.call('HGET', KEYS[6], 'origin')
if not origin or redis.call('LREM', 'rq:queue:' .. origin, 1, ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[7])
redis.call('SET', KEYS[5], ARGV[2], 'EX', ARGV[3])
redis.call('HSET', KEYS[6], 'origin', ARGV[4], 'data', ARGV[5])
"""
    + _PUT
)

# KEYS: the mark of what has ended, the job, the body, the registry of cancelled jobs. ARGV: job id, attempt, seconds
# that the record lives on. Gives 1 when the job still waited: it then ends as RQ's own `Job.cancel` would leave it.
# RQ never trims that registry, so that is done here. The first write takes no memory: a Redis that is full lets a
# script go on that has begun to write, and this one makes room.
CANCEL = """
redis.call('EXPIRE', KEYS[1], ARGV[3])
local ended = redis.pcall('GET', KEYS[1])
if type(ended) ~= 'string' or (tonumber(ended) or 0) < tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
local origin = redis.call('HGET', KEYS[2], 'origin')
if not origin or redis.call('LREM', 'rq:queue:' .. origin, 1, ARGV[1]) == 0 then return 0 end
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[2], 'status', 'canceled')
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[4], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - tonumber(ARGV[3]))
redis.call('DEL', KEYS[3])
return 1
"""
