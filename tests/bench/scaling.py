"""What sixteen workers answer, beside one: through the real gateway, Redis, RQ and placement.

Workers are real processes with the echo engine at a set speed, slow enough that this machine is not what is measured:
what is left of sixteen times one is what waiting for work, and work that lies at the wrong worker, cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from shared.redis_server import RedisServer
from tests.bench.report import Table, percentile
from tests.bench.wire import Connection, chat
from tests.support.processes import wait_until
from tests.support.served import Served, served

WORKERS = (1, 4, 16)
STEP_MS = 250.0
_CAPACITY = 2
_WORDS = 16  # of an answer, a word a step
_CLIENTS = 3  # for each worker, so that work waits
_WARM_S, _MEASURED_S = 10.0, 40.0
_MODEL = "echo"


async def measure_scaling() -> Table:
    table = Table(
        title=f"Answers of {_WORDS} words, a step every {STEP_MS:.0f} ms, {_CAPACITY} at once a worker",
        head=("workers", "answers a minute", "times one", "of what they can", "first word p50 s", "p95 s"),
    )
    one, most = 0.0, 60 * _CAPACITY / (_WORDS * STEP_MS / 1000)
    for workers in WORKERS:
        with started(workers) as gateway:
            load = Load(gateway.port)
            per_minute = await load.run(_CLIENTS * workers)
            one = one or per_minute
            first = sorted(load.first_s)
            table.add(
                *(str(workers), f"{per_minute:.0f}", f"{per_minute / one:.2f}", f"{per_minute / most / workers:.2f}"),
                *(f"{percentile(first, 0.5):.1f}", f"{percentile(first, 0.95):.1f}"),
            )
    table.notes.append(f"one worker can give {most:.0f} a minute; {_CLIENTS} clients for each ask without a pause")
    return table


@contextlib.contextmanager
def started(workers: int) -> Iterator[Served]:
    """A gateway and so many hosts with a worker each, all seen."""
    with tempfile.TemporaryDirectory() as name, RedisServer() as server, contextlib.ExitStack() as stack:
        gateway = stack.enter_context(served(server.url, Path(name), max_queue=512))
        for number in range(workers):
            options = {"step_ms": STEP_MS, "MLX_GATEWAY_CAPACITY": _CAPACITY}
            stack.enter_context(gateway.worker(_MODEL, host=f"host{number}", **options))
        wait_until(lambda: len(gateway.get("/status").json["workers"]) == workers, "all are seen")
        yield gateway


class Load:
    """Clients that ask again as soon as they are answered. What ends within the measured time counts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._begin_s = self._end_s = 0.0
        self.answers = 0
        self.first_s: list[float] = []

    async def run(self, clients: int) -> float:
        """Answers a minute."""
        self._begin_s = time.monotonic() + _WARM_S
        self._end_s = self._begin_s + _MEASURED_S
        await asyncio.gather(*(self._ask(number, clients) for number in range(clients)))
        return 60 * self.answers / _MEASURED_S

    async def _ask(self, number: int, clients: int) -> None:
        connection = Connection("127.0.0.1", self._port)
        answer_s = _WORDS * STEP_MS / 1000
        await asyncio.sleep(answer_s * number / clients)  # not all in step
        turn = 0
        while time.monotonic() < self._end_s:
            turn += 1
            question = f"echo:words {_WORDS}\nnumber {number}, turn {turn}"
            body = {"model": _MODEL, "messages": [{"role": "user", "content": question}]}
            answer = await chat(connection, body)
            if self._begin_s <= time.monotonic() < self._end_s:
                self.answers += 1
                self.first_s.append(answer.first_s)
        await connection.close()
