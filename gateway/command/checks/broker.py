"""The Redis that is used: its version, what it keeps, what it throws away, who we are there, and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import redis
from redis.exceptions import NoPermissionError, RedisError

from gateway.command.checks.finding import Finding, fault, fine, remark
from shared.config import Settings
from shared.connections import build_redis

_SKEW_S: Final = 2.0


def check_broker(settings: Settings) -> Iterator[Finding]:
    """Of a Redis that answers and is new enough."""
    try:
        with build_redis(settings) as broker:
            asked_s = time.time()
            seconds, micros = cast("tuple[int, int]", broker.time())
            yield check_clock(int(seconds) + int(micros) / 1e6, (asked_s + time.time()) / 2)
            yield from check_server(cast("Mapping[str, Any]", broker.info()))
            yield _user(broker)
    except (RedisError, OSError) as error:
        yield fault("redis", f"the server stopped answering: {error}")


def check_clock(theirs_s: float, ours_s: float) -> Finding:
    skew_s = ours_s - theirs_s
    if abs(skew_s) > _SKEW_S:
        return remark(
            "clock", f"this machine's clock is {skew_s:+.1f} s from Redis's: nothing breaks by it, but logs do not "
            "match; switch the time service on"
        )  # fmt: skip
    return fine("clock", f"within {abs(skew_s):.1f} s of Redis's")


def check_server(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What its INFO tells."""
    server = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    yield fine("redis version", f"{server} {info.get('valkey_version') or info.get('redis_version', 'unknown')}")
    if info.get("aof_enabled"):
        yield remark("redis persistence", "it writes every change to disk, which nobody needs: `appendonly no`")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        yield fault("redis memory", f"it throws keys away when it is full ({policy}): `maxmemory-policy noeviction`")
    elif not info.get("maxmemory"):
        yield remark("redis memory", "it has no limit: `maxmemory 2gb`, so that waiting requests are refused in time")


def _user(broker: redis.Redis) -> Finding:
    try:
        name = broker.acl_whoami()
    except NoPermissionError:
        return fine("redis user", "one of its own, that may do what it must")
    except RedisError as error:
        return remark("redis user", f"it is not known who we are there: {error}")
    user = name.decode() if isinstance(name, bytes) else name
    if user == "default":
        return remark(
            "redis user", "`default`: give gateways and hosts users of their own (`mlx-gateway config secrets`)"
        )
    return fine("redis user", user)
