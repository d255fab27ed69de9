"""Redis users for gateways and hosts, made from the names they use: `python -m shared.acl [deployment]`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from shared.keys import DEFAULT_DEPLOYMENT, Names

_ANY = "*"
_RQ_CHANNELS = "rq:pubsub:*"  # commands to workers
_GATEWAY_COMMANDS = (
    "ping hello auth select info time multi exec discard smembers sadd srem get mget set del expire llen lrem rpush "
    "hset hget hmget hgetall hincrby hdel exists lpush rpop lrange linsert ltrim zadd zmscore zremrangebyscore xrange "
    "evalsha script|load publish "
    "subscribe unsubscribe type"
)
_HOST_COMMANDS = (
    "ping hello auth select info time multi exec discard watch unwatch get mget set del unlink exists expire pexpire "
    "persist ttl pttl type strlen sadd srem smembers scard sismember hset hsetnx hget hmget hgetall hdel hexists "
    "hincrby hincrbyfloat hkeys rpush lpush rpop lpop blpop llen lrange lrem ltrim zadd zrem zscore zmscore zrange "
    "zrangebyscore zremrangebyscore zcard xadd xtrim eval evalsha script|load publish subscribe unsubscribe "
    "client|setname client|list"
)
_WORKER_RULES = "+@all -@admin -@dangerous +info +client|list +client|setname +eval +evalsha +script|load"


def render_users(names: Names) -> str:
    """The lines of an ACL file. Passwords are to be changed."""
    return f"user default off\n{_gateway(names)}\n{_worker(names)}\n"


def _gateway(names: Names) -> str:
    keys, channels, commands = _gateway_reach(names)
    return _user("gateway", keys, channels, commands)


def gateway_rules(names: Names) -> list[str]:
    """The rules of the Redis user of a gateway that joined."""
    keys, channels, commands = _gateway_reach(names)
    return [
        *("resetkeys", *(f"~{key}" for key in keys)),
        *("resetchannels", *(f"&{channel}" for channel in channels)),
        *commands.split(),
    ]


def _gateway_reach(names: Names) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Its keys, channels and commands."""
    queue = names.queue(_ANY)
    keys = (
        *_shared_keys(names),
        names.gateways,
        names.gateway(_ANY),
        names.home(_ANY),
        names.run(_ANY, _ANY),
        names.why(_ANY),
        names.kept(_ANY, _ANY),
        names.kept_order(_ANY),
        names.generations,
        names.quota(_ANY),
        names.suspects,
    )
    rq = ("rq:queues", f"rq:queue:{queue}", "rq:job:*", f"rq:canceled:{queue}")
    channels = (
        names.gateway_channel(_ANY, _ANY),
        names.worker_channel(_ANY),
        names.host_channel(_ANY),
        names.loads,
        names.fleet,
        _RQ_CHANNELS,
    )
    commands = " ".join(f"+{command}" for command in _GATEWAY_COMMANDS.split())
    return (*keys, *rq), channels, f"-@all {commands}"


def _worker(names: Names) -> str:
    channels = (
        names.gateway_channel(_ANY, _ANY),
        names.worker_channel(_ANY),
        names.host_channel(_ANY),
        names.loads,
        names.fleet,
        _RQ_CHANNELS,
    )
    return _user("worker", (*_shared_keys(names), names.day(_ANY), names.generations, "rq:*"), channels, _WORKER_RULES)


def host_rules(names: Names, host: str, *, can_only_read: bool) -> list[str]:
    """The rules of the Redis user of one host, by its word: its own bodies, lists, leases, logs and channels, and of
    RQ's records those that have no host in their names, which hold no prompt and no answer. `can_only_read`: the server
    (7.0 and later) knows keys that may be read and not written."""
    worker = f"{host}.{_ANY}"
    queue = names.queue(_ANY)
    own = (
        names.host(host),
        names.lease(worker),
        f"{names.body_prefix(host)}{_ANY}",
        names.bell(worker),
        names.placed(worker),
        names.resident(worker),
        names.disk(host, _ANY),
        names.pieces(worker, _ANY),
        names.frame_log(worker, _ANY),
        f"rq:queue:{names.worker_queue(_ANY, worker)}",
        f"rq:worker:{worker}",
    )
    ours = (names.workers, names.hosts, names.run_once(_ANY), names.day(_ANY))
    common = (*ours, "rq:queues", "rq:workers", f"rq:workers:{queue}")
    jobs = ("rq:job:*", "rq:execution:*", "rq:executions:*", "rq:results:*")
    registries = tuple(f"rq:{each}:{queue}" for each in ("wip", "finished", "failed", "canceled"))
    reading = "%R~" if can_only_read else "~"
    channels = (
        names.gateway_channel(_ANY, host),
        names.worker_channel(worker),
        names.host_channel(host),
        names.loads,
        names.fleet,
        f"rq:pubsub:{worker}",
    )
    return [
        "resetkeys",
        *(f"~{key}" for key in (*own, *common, *jobs, *registries)),
        *(f"{reading}{key}" for key in (names.ended(_ANY), names.generations_for(host), "rq:suspended")),
        "resetchannels",
        *(f"&{channel}" for channel in channels),
        "-@all",
        *(f"+{command}" for command in _HOST_COMMANDS.split()),
    ]


def _shared_keys(names: Names) -> tuple[str, ...]:
    return (
        names.workers,
        names.hosts,
        names.lease(_ANY),
        names.host(_ANY),
        names.body(_ANY, _ANY, 0).removesuffix("-0"),
        names.ended(_ANY),
        names.run_once(_ANY),
        names.bell(_ANY),
        names.placed(_ANY),
        names.resident(_ANY),
        names.soon(_ANY),
        names.disk(_ANY, _ANY),
        names.pieces(_ANY, _ANY),
        names.frame_log(_ANY, _ANY),
    )


def _user(name: str, keys: Iterable[str], channels: Iterable[str], rules: str) -> str:
    key_rules = " ".join(f"~{key}" for key in keys)
    channel_rules = " ".join(f"&{channel}" for channel in channels)
    return f"user {name} on >CHANGE-{name.upper()}-PASSWORD resetkeys {key_rules} resetchannels {channel_rules} {rules}"


def main() -> int:
    deployment = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_DEPLOYMENT
    sys.stdout.write(render_users(Names(deployment)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
