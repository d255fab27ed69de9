"""A worker's sign of life lasts as long as it may be silent."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from shared import keys
from shared.keys import host_of
from shared.registry import WorkerLease
from tests.support.fleet import lease
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.sealed import KEYRING, open_lease
from worker.prefix_cache.marks import Residents
from worker.serving.lease import LeaseKeeper

WORKER = lease("m")
KNOWN = Residents(memory={b"tag": 7})
KEY = KEYRING.of_worker(WORKER.worker)


@pytest.mark.parametrize(("execution_ttl_s", "most_s"), [(60.0, keys.LEASE_TTL_S), (6.0, keys.LEASE_TTL_S), (3.0, 3)])
def test_a_lease_lasts_no_longer_than_its_jobs(
    redis_client: redis.Redis, execution_ttl_s: float, most_s: float
) -> None:
    LeaseKeeper(redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=execution_ttl_s).write()
    assert most_s - 1 < redis_client.pttl(NAMES.lease(WORKER.worker)) / 1000 <= most_s
    assert open_lease(WORKER.worker, redis_client.get(NAMES.lease(WORKER.worker))) == WORKER


def test_a_lease_outlasts_a_missed_renewal(redis_client: redis.Redis) -> None:
    LeaseKeeper(redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=0.5).write()
    assert redis_client.pttl(NAMES.lease(WORKER.worker)) / 1000 > keys.LEASE_EVERY_S


def test_keys_of_a_wrong_type_are_named_and_made_anew_with_the_lease(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = LeaseKeeper(
        redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=6, held_jobs=lambda: ["j"], residents=lambda: KNOWN
    )
    name, host = WORKER.worker, host_of(WORKER.worker)
    wrong = (NAMES.lease(name), NAMES.workers, NAMES.placed(name), NAMES.resident(name), NAMES.disk(host, "m"))
    for write_wrong in (lambda key: redis_client.set(key, "x"), lambda key: redis_client.rpush(key, "x")):
        keeper.write()
        for key in wrong:
            redis_client.delete(key)
            write_wrong(key)
        keeper.write()
        keeper.write()  # what is known anew is told again
        assert redis_client.smembers(NAMES.workers) == {name.encode()}
        assert redis_client.zscore(NAMES.resident(name), b"tag") == 7
        assert open_lease(name, redis_client.get(NAMES.lease(name))) == WORKER
    for key in wrong[1:3]:
        assert f"{key} held a string instead of" in caplog.text


def test_a_redis_that_came_back_empty_hears_all_of_a_worker_with_the_next_lease(redis_client: redis.Redis) -> None:
    keeper = LeaseKeeper(redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=6, residents=lambda: KNOWN)
    for _ in range(7):  # whichever of the leases it was that was lost
        keeper.write()
        redis_client.flushall()
        keeper.write()
        assert redis_client.smembers(NAMES.workers) == {WORKER.worker.encode()}
        assert redis_client.zscore(NAMES.resident(WORKER.worker), b"tag") == 7


def test_a_released_lease_is_gone(redis_client: redis.Redis) -> None:
    keeper = LeaseKeeper(redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=6)
    keeper.write()
    keeper.release()
    assert not redis_client.exists(NAMES.lease(WORKER.worker), NAMES.workers)


def test_a_lease_that_cannot_be_written_again_on_a_full_redis_lasts_on(redis_client: redis.Redis) -> None:
    keeper = LeaseKeeper(redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=6)
    keeper.write()
    redis_client.pexpire(NAMES.lease(WORKER.worker), 500)
    redis_client.config_set("maxmemory", 1)
    keeper.write()
    assert redis_client.pttl(NAMES.lease(WORKER.worker)) > 1000
    redis_client.delete(NAMES.lease(WORKER.worker))
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        keeper.write()


class Question:
    """How many keys there are, asked along with a lease."""

    def __init__(self) -> None:
        self.replies: list[Any] = []

    def ask(self, pipe: Any) -> None:
        pipe.dbsize()

    def hear(self, reply: Any) -> None:
        self.replies.append(reply)


def test_a_lease_goes_along_with_what_is_asked_in_one_round_trip(redis_client: redis.Redis) -> None:
    keeper = LeaseKeeper(redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=6, residents=lambda: KNOWN)
    asked = [Question(), Question()]
    sent = []
    pack = redis.Connection.pack_commands
    with pytest.MonkeyPatch.context() as patched:
        for kind in (redis.Connection, redis.UnixDomainSocketConnection):
            patched.setattr(kind, "pack_commands", lambda self, each: sent.append(list(each)) or pack(self, sent[-1]))
        keeper.write_beside(asked)
    (mine,) = [each for each in sent if any(NAMES.lease(WORKER.worker) in command for command in each)]
    assert [command for command in mine if command[0] == "DBSIZE"] == [("DBSIZE",)] * 2
    assert [each.replies for each in asked] == [[3], [3]]  # the lease, who works, and what is known
    assert open_lease(WORKER.worker, redis_client.get(NAMES.lease(WORKER.worker))) == WORKER
    assert redis_client.smembers(NAMES.workers) == {WORKER.worker.encode()}


def test_what_is_wrong_with_the_lease_keeps_no_answer_back_and_is_put_right_by_its_thread(
    redis_client: redis.Redis,
) -> None:
    keeper = LeaseKeeper(redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=6)
    keeper.write()
    redis_client.delete(name := NAMES.lease(WORKER.worker))
    redis_client.rpush(name, "x")
    asked = Question()
    keeper.write_beside([asked])
    assert asked.replies == [2]
    keeper.start()
    try:
        wait_until(lambda: redis_client.type(name) == b"string", "the lease made anew")
    finally:
        keeper.release()


def test_a_redis_that_came_back_empty_hears_all_of_a_worker_with_its_next_beat(redis_client: redis.Redis) -> None:
    keeper = LeaseKeeper(redis_client, NAMES, KEY, lambda: WORKER, execution_ttl_s=6, residents=lambda: KNOWN)
    for _ in range(7):  # whichever of the leases it was that was lost
        keeper.write_beside([])
        redis_client.flushall()
        keeper.write_beside([])
        assert redis_client.smembers(NAMES.workers) == {WORKER.worker.encode()}
        assert redis_client.zscore(NAMES.resident(WORKER.worker), b"tag") == 7


def test_a_lease_with_which_no_beat_goes_along_is_renewed_before_it_ends(redis_client: redis.Redis) -> None:
    written = []

    def describe() -> WorkerLease:
        written.append(redis_client.pttl(NAMES.lease(WORKER.worker)))
        return WORKER

    keeper = LeaseKeeper(redis_client, NAMES, KEY, describe, execution_ttl_s=1)
    keeper.write()
    keeper.start()
    try:
        wait_until(lambda: len(written) >= 3, "two renewals")
    finally:
        keeper.release()
    assert redis_client.ttl(NAMES.lease(WORKER.worker)) == -2
