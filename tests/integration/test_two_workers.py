"""Two gateways and two workers of one model: work is spread, moves to where it can begin, and outlives either worker.

The engines are echo engines: nothing is shown of how a device is shared.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from rq.registry import FailedJobRegistry

from shared.redis_server import RedisServer
from tests.support.names import NAMES
from tests.support.processes import Running, wait_until
from tests.support.queues import running_jobs, waiting_jobs
from tests.support.served import EventSource, Reply, Served, message, served

MESSAGES = "/v1/messages"
CAPACITY = 2
_SETTINGS = {"keepalive_s": 0.2, "execution_ttl_s": 2, "drain_s": 20}
_WAITING = 4
_models = itertools.count()


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    with RedisServer() as server, ExitStack() as stack:
        one, other = (
            stack.enter_context(served(server.url, tmp_path_factory.mktemp("gateway"), **_SETTINGS)) for _ in range(2)
        )
        yield one, other


@dataclass
class Pair:
    """Two workers of `model`, each of which runs two requests at once, and those who ask for it."""

    model: str
    gateways: tuple[Served, Served]
    workers: list[Running]
    client: redis.Redis
    stack: ExitStack
    pool: ThreadPoolExecutor

    def ask(self, words: str, number: int, *, priority: str = "batch") -> Future[Reply]:
        """A whole answer, through one gateway or the other."""
        body = message(words, model=self.model)
        headers = {"x-mlx-gateway-priority": priority}
        return self.pool.submit(self.gateways[number % 2].post, MESSAGES, body, headers)

    def fill(self) -> list[EventSource]:
        """Endless batch answers in every place, and both gateways have seen them there."""
        body = message("echo:words 100000", model=self.model, stream=True) | {"max_tokens": 100_000}
        streams = []
        for number in range(2 * CAPACITY):
            gateway = self.gateways[number % 2]
            opened = gateway.stream(MESSAGES, body, {"x-mlx-gateway-priority": "batch"})
            streams.append(self.stack.enter_context(opened))
            wait_until(lambda: len(running_jobs(self.client, self.model)) == len(streams), "it runs")
        for gateway in self.gateways:
            wait_until(lambda gateway=gateway: held(gateway, self.model) == [CAPACITY] * 2, "it is seen")  # type: ignore[misc]
        return streams

    def wait_behind(self) -> list[Future[Reply]]:
        """Batch work that waits on the lists of both: a gateway shares out what it places itself, and each of them
        placed two."""
        replies = [self.ask(f"batch {number}", number) for number in range(_WAITING)]
        wait_until(lambda: len(waiting_jobs(self.client, self.model)) == _WAITING, "all wait")
        assert len(self.lists()) == 2, "some on each worker's list"
        return replies

    def holders(self) -> list[int]:
        """How many jobs each worker runs, fewest first."""
        jobs = running_jobs(self.client, self.model)
        names = [self.client.hget(f"rq:job:{job}", "worker_name") for job in jobs]
        return sorted(names.count(name) for name in set(names))

    def lists(self) -> list[int]:
        """How many jobs wait on the lists of each worker that has any, fewest first."""
        found = self.client.scan_iter(f"rq:queue:{NAMES.queue(self.model)}@*")
        return sorted(int(self.client.llen(key)) for key in found)  # type: ignore[arg-type]


@pytest.fixture
def pair(gateways: tuple[Served, Served]) -> Iterator[Pair]:
    model = f"echo{next(_models)}"
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        started = [
            stack.enter_context(gateways[0].worker(model, step_ms=20, MLX_GATEWAY_CAPACITY=CAPACITY)) for _ in range(2)
        ]
        for worker in started:
            worker.wait_for_line("serves")
        for gateway in gateways:
            wait_until(lambda gateway=gateway: ready_workers(gateway, model) == 2, "both are seen")  # type: ignore[misc]
        yield Pair(model, gateways, started, stack.enter_context(gateways[0].client()), stack, pool)


def ready_workers(gateway: Served, model: str) -> int:
    lines = gateway.get("/metrics/hosts").body.decode().splitlines()
    return sum(line.startswith("wk_state{") and f'model="{model}",state="ready"}} 1.0' in line for line in lines)


def held(gateway: Served, model: str) -> list[int]:
    """How many requests each of the model's workers holds, as the gateway has seen it."""
    lines = gateway.get("/metrics/hosts").body.decode().splitlines()
    rows = [line for line in lines if line.startswith("wk_in_flight{") and f'model="{model}"' in line]
    return [int(float(row.rpartition(" ")[2])) for row in rows]


def answered(replies: list[Future[Reply]]) -> list[str]:
    found: list[Any] = [reply.result(40) for reply in replies]
    assert {reply.status for reply in found} == {200}
    return [reply.json["content"][0]["text"] for reply in found]


def test_work_is_spread_people_come_first_and_what_a_killed_worker_had_is_served_by_the_other(pair: Pair) -> None:
    streams = pair.fill()
    assert pair.holders() == [CAPACITY, CAPACITY]
    behind = pair.wait_behind()
    people = [pair.ask(f"person {number}", number, priority="interactive") for number in range(4)]
    assert answered(people) == [f"person {number}" for number in range(4)]
    assert len(waiting_jobs(pair.client, pair.model)) == _WAITING, "people did not wait for batch work"
    pair.workers[0].signal(signal.SIGKILL)
    wait_until(lambda: len(pair.lists()) == 1 and pair.lists()[0] >= _WAITING, "all wait for the other")
    for stream in streams:
        stream.leave()
    assert answered(behind) == [f"batch {number}" for number in range(_WAITING)]


@pytest.mark.slow
def test_what_waits_for_a_worker_that_drains_goes_to_the_other_and_what_runs_there_goes_on(pair: Pair) -> None:
    streams = pair.fill()
    behind = pair.wait_behind()
    pair.workers[0].signal(signal.SIGTERM)
    wait_until(lambda: pair.lists() == [_WAITING], "all wait for the other")
    assert pair.holders() == [CAPACITY, CAPACITY]
    for stream in streams:
        stream.leave()
    assert answered(behind) == [f"batch {number}" for number in range(_WAITING)]
    assert pair.workers[0].wait() == 0


def test_what_a_worker_that_stops_had_claimed_and_not_begun_is_answered_by_the_next(
    gateways: tuple[Served, Served],
) -> None:
    """Nothing is lost, nothing counts as failed, and what was begun is finished where it is."""
    model, gateway = f"echo{next(_models)}", gateways[0]
    prompts = [f"{number} " + "w " * 36 for number in range(2)]  # a little less than what is claimed ahead of time
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool, gateway.client() as client:
        slow = stack.enter_context(gateway.worker(model, prefill_tokens_per_s=20))
        replies = [pool.submit(gateway.post, MESSAGES, message(prompt, model=model)) for prompt in prompts]
        wait_until(lambda: len(running_jobs(client, model)) == len(prompts), "all are claimed")
        slow.signal(signal.SIGTERM)
        assert slow.wait() == 0
        stack.enter_context(gateway.worker(model))
        assert [text.split()[0] for text in answered(replies)] == ["0", "1"]
        shown = gateway.get("/metrics").body.decode()
        assert f'gw_returned_total{{model="{model}"}} 1.0' in shown
        assert f'gw_redispatches_total{{model="{model}"}} 1.0' not in shown
        registry = FailedJobRegistry(NAMES.queue(model, "interactive"), connection=client)
        assert registry.get_job_count(cleanup=False) == 0
