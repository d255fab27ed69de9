"""Gateways are told which prefixes a worker need not compute: all of them, no others, and again when they were lost."""

from __future__ import annotations

import pytest
import redis

from shared.messages import Message, TextPart
from shared.request import GenerateRequest
from shared.trail import PIECE_BYTES, Trail
from tests.support.fleet import lease
from tests.support.names import NAMES
from tests.support.sealed import KEYRING
from worker.engines.echo_cache import EchoCache, pack_words
from worker.prefix_cache.marks import Residents
from worker.prompt.marks import marks_of
from worker.prompt.values import Boundary
from worker.serving.drift import Drift, Factor
from worker.serving.lease import LeaseKeeper

WORKER = lease("m")
MEMORY, DISK = NAMES.resident(WORKER.worker), NAMES.disk("host", "m")
ONE, TWO, THREE = b"1" * 16, b"2" * 16, b"3" * 16


class Told:
    """A lease that is written with what `residents` says, and what Redis then holds."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.residents = Residents()
        self.jobs: list[str] = []
        self.keeper = LeaseKeeper(
            client,
            NAMES,
            KEYRING.of_worker(WORKER.worker),
            lambda: WORKER,
            execution_ttl_s=6,
            residents=lambda: self.residents,
            held_jobs=lambda: self.jobs,
        )

    def tell(self, memory: dict[bytes, int], stored: dict[bytes, int] | None = None) -> None:
        self.residents = Residents(memory=memory, stored=stored or {})
        self.keeper.write()

    def holds(self, key: str) -> dict[bytes, float]:
        return dict(self.client.zrange(key, 0, -1, withscores=True))


@pytest.fixture
def told(redis_client: redis.Redis) -> Told:
    return Told(redis_client)


def test_what_came_and_went_is_told_with_the_next_lease(told: Told) -> None:
    told.tell({ONE: 10, TWO: 20}, {ONE: 10})
    assert (told.holds(MEMORY), told.holds(DISK)) == ({ONE: 10, TWO: 20}, {ONE: 10})
    told.tell({TWO: 25, THREE: 30}, {ONE: 10, TWO: 25})
    assert (told.holds(MEMORY), told.holds(DISK)) == ({TWO: 25, THREE: 30}, {ONE: 10, TWO: 25})


def test_what_an_earlier_life_told_of_the_disk_is_replaced(told: Told, redis_client: redis.Redis) -> None:
    redis_client.zadd(DISK, {THREE: 5})
    told.tell({}, {ONE: 10})
    assert told.holds(DISK) == {ONE: 10}


def test_a_redis_that_came_back_empty_is_told_everything_again(told: Told, redis_client: redis.Redis) -> None:
    told.tell({ONE: 10})
    redis_client.flushall()
    told.keeper.write()
    told.keeper.write()
    assert told.holds(MEMORY) == {ONE: 10}


def test_memory_ends_with_the_worker_and_the_disk_does_not(told: Told, redis_client: redis.Redis) -> None:
    told.tell({ONE: 10}, {ONE: 10})
    assert 0 < redis_client.ttl(MEMORY) <= 10 < redis_client.ttl(DISK)
    told.keeper.release()
    assert (told.holds(MEMORY), told.holds(DISK)) == ({}, {ONE: 10})


def test_what_a_lease_counts_is_noted_as_placed_no_longer(told: Told, redis_client: redis.Redis) -> None:
    redis_client.hset(NAMES.placed(WORKER.worker), mapping={"v": 2, "a-1": "!x", "b-1": "x"})
    told.jobs = ["a-1"]
    told.keeper.write()
    assert redis_client.hkeys(NAMES.placed(WORKER.worker)) == [b"v", b"b-1"]


# --- where they are -------------------------------------------------------------------------------------------------


def words(count: int, name: str = "w") -> bytes:
    return pack_words(f"{name}{number}" for number in range(count))


def test_a_prefix_is_resident_until_it_is_evicted_and_then_on_disk() -> None:
    deep_is_dear = lambda start, end: (end - start) * (1 + end / 1000)  # noqa: E731
    cache = EchoCache(memory_tokens=1000, disk_tokens=5000, recompute_s=deep_is_dear)
    cache.keep("", words(800), [(ONE, 300), (TWO, 800), (THREE, 900)])
    assert cache.residents() == Residents(memory={ONE: 300, TWO: 800}, stored={ONE: 300, TWO: 800})
    cache.keep("", words(900, "other"), [(THREE, 900)])
    assert cache.residents() == Residents(memory={THREE: 900}, stored={ONE: 300, TWO: 800, THREE: 900})
    head = cache.take("", words(801))
    assert (head.tokens, head.restored) == (800, 800)
    assert cache.residents().memory == {ONE: 300, TWO: 800}


def test_marks_stay_with_their_prefix_where_a_fork_cuts_it() -> None:
    cache = EchoCache(memory_tokens=10_000)
    cache.keep("", words(600), [(ONE, 100), (TWO, 600)])
    cache.keep("", words(320) + words(300, "fork"), [(THREE, 620)])
    assert cache.residents().memory == {ONE: 100, TWO: 600, THREE: 620}


def test_tenants_do_not_share() -> None:
    cache = EchoCache(memory_tokens=10_000)
    cache.keep("a", words(100))
    assert cache.find("b", words(101)).tokens == 0
    assert cache.find("a", words(101)).tokens == 100


def test_the_places_of_a_prompts_prefixes_come_from_its_boundaries() -> None:
    tags = tuple(bytes([number]) * 16 for number in range(5))
    trail = Trail(
        tools_first=tags[3:4],
        system_first=tags[4:5],
        messages=tags[:3],
        tools_bytes=2 * PIECE_BYTES,
        head_bytes=4 * PIECE_BYTES,
    )
    said = [Message(role=role, parts=(TextPart(text="x"),)) for role in ("system", "user", "assistant")]  # type: ignore[arg-type]
    request = GenerateRequest(id="r", model="m", messages=tuple(said), trail=trail.encode())
    after = (Boundary("system", 0, 1000), Boundary("message", 1, 1100), Boundary("prompt", 2, 1200))
    assert dict(marks_of(request, after)) == {tags[0]: 1000, tags[1]: 1100, tags[2]: 1200, tags[4]: 237}
    before = (Boundary("tools", 0, 600), *after)
    assert dict(marks_of(request, before))[tags[3]] == 285
    assert tags[4] not in dict(marks_of(request, before))


# --- by how much predictions are wrong ------------------------------------------------------------------------------


def test_a_factor_follows_what_came_and_is_bounded() -> None:
    factor = Factor()
    assert factor.value == 1.0
    for _ in range(50):
        factor.observe(predicted_s=1.0, actual_s=1.5)
    assert factor.value == pytest.approx(1.5, rel=0.05)
    for _ in range(50):
        factor.observe(predicted_s=1.0, actual_s=100.0)
    assert factor.value == 2.0
    for _ in range(200):
        factor.observe(predicted_s=1.0, actual_s=0.001)
    assert factor.value == 0.5


def test_what_was_predicted_to_take_no_time_teaches_nothing() -> None:
    factor = Factor()
    factor.observe(predicted_s=0.0, actual_s=5.0)
    assert factor.value == 1.0


def test_twice_as_long_and_half_as_long_even_out() -> None:
    factor = Factor()
    for _ in range(50):
        factor.observe(predicted_s=1.0, actual_s=2.0)
        factor.observe(predicted_s=1.0, actual_s=0.5)
    assert factor.value == pytest.approx(1.0, abs=0.1)


def test_prefills_beside_streams_have_a_factor_of_their_own() -> None:
    drift = Drift()
    for _ in range(20):
        drift.note_prefill(predicted_s=1.0, actual_s=1.0, is_beside=False)
        drift.note_prefill(predicted_s=1.0, actual_s=1.8, is_beside=True)
    assert drift.alone.value == pytest.approx(1.0)
    assert drift.beside.value == pytest.approx(1.8, rel=0.1)
