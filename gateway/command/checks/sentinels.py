"""The sentinels of a `redis+sentinel://` URL: whether each answers, and whether there is anybody to fail over to."""

from __future__ import annotations

from collections.abc import Iterator

from redis.exceptions import RedisError

from gateway.command.checks.finding import Finding, fine, remark
from shared.config import Settings
from shared.sentinel import Sentinels, is_sentinel, sentinels_of

_LEAST = 3  # two of which still agree when one is gone


def check_sentinels(settings: Settings) -> Iterator[Finding]:
    """Nothing where Redis is asked directly. The URL is one that can be read."""
    if is_sentinel(settings.redis_url):
        yield from _check(sentinels_of(settings.redis_url))


def _check(sentinels: Sentinels) -> Iterator[Finding]:
    replicas: list[int] = []
    for host, port in sentinels.addresses:
        try:
            with sentinels.client(host, port) as sentinel:
                replicas.append(int(sentinel.sentinel_master(sentinels.service)["num-slaves"]))
        except (RedisError, OSError, KeyError) as error:
            yield remark("sentinel", f"{host}:{port} does not answer for {sentinels.service}: {error}")
    if len(sentinels.addresses) < _LEAST:
        yield remark("sentinel", f"REDIS_URL names {len(sentinels.addresses)}; with three, one may be lost")
    if replicas and not max(replicas):
        yield remark("sentinel", f"{sentinels.service} has no replica: there is nobody to fail over to")
    elif replicas:
        yield fine("sentinel", f"{len(replicas)} know {sentinels.service}, which has {max(replicas)} replica(s)")
