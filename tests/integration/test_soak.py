"""Everything at once for long, through the whole stack: afterwards nothing is left over and nothing has grown.

What people say comes from a small stock, so that the first rounds fill whatever remembers it, within its bounds.
`SOAK_REQUESTS` in the environment sets how many requests each of the rounds has.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from shared import keys
from shared.work import LANES
from tests.models.random_checkpoint import standard_library_text
from tests.support.models import CheckpointMaker
from tests.support.names import NAMES
from tests.support.processes import Running, running, wait_until
from tests.support.queues import running_jobs, waiting_jobs
from tests.support.served import Served, served

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "250"))
ROUNDS, WARM = 4, 2  # the rounds after the warm ones are compared with them
CLIENTS = 6
MODELS = ("full", "window", "qwen3-next")  # presets, and the models' ids
CONTEXT_TOKENS = 3000
CACHE_BYTES, DISK_BYTES = 2_000_000, 4_000_000
GROWTH_BYTES = 8 << 20  # that a process may have more after the last round than when it was warm
Body = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """What a process holds."""

    resident_bytes: int
    files: int
    threads: int


def mark(process: Running) -> Mark:
    pid = process.pid
    resident = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    folder = Path(f"/proc/{pid}")
    files = len(list((folder / "fd").iterdir())) if folder.exists() else 0
    threads = len(list((folder / "task").iterdir())) if folder.exists() else 0
    return Mark(resident_bytes=int(resident) * 1024, files=files, threads=threads)


class People:
    """Clients of every kind, their conversations shared."""

    def __init__(self, gateway: Served) -> None:
        self._gateway = gateway
        self._heads = [f"head {number} {standard_library_text(1500 + 700 * number)}" for number in range(3)]
        self._conversations: dict[str, list[list[Body]]] = {model: [] for model in MODELS}
        self._lock = threading.Lock()
        self.outcomes: Counter[str] = Counter()

    def act(self, number: int) -> None:
        dice = random.Random(number)
        model = dice.choice(MODELS)
        acts: dict[Callable[[random.Random, str], str], int] = {
            self._talk: 40,
            self._talk_in_the_other_dialect: 12,
            self._leave: 15,
            self._hang_up: 8,
            self._count: 10,
            self._twins: 5,
            self._err: 15,
        }
        (chosen,) = dice.choices(list(acts), list(acts.values()))
        outcome = chosen(dice, model)
        with self._lock:
            self.outcomes[outcome] += 1

    def _turns(self, dice: random.Random, model: str) -> list[Body]:
        """A new conversation, the next turn of one, or a branch of one."""
        with self._lock:
            known = [*self._conversations[model]]
        question = {"role": "user", "content": f"question {dice.randrange(3)} " * 5}
        if not known or dice.random() < 0.3:
            return [{"role": "user", "content": dice.choice(self._heads)}, *([] if dice.random() < 0.5 else [question])]
        turns = dice.choice(known)
        if dice.random() < 0.4:
            turns = turns[: 2 * dice.randrange(len(turns) // 2 + 1)]
        return [*turns, question]

    def _body(self, dice: random.Random, model: str, turns: list[Body]) -> Body:
        return {
            "model": model,
            "max_tokens": dice.choice([1, 20]),
            "temperature": dice.choice([0, 1]),
            "messages": turns,
            "metadata": {"user_id": dice.choice(["a", "b"])},
        }

    def _keep(self, model: str, turns: list[Body], said: str) -> None:
        if said and len(turns) < 4:
            with self._lock:
                self._conversations[model].append([*turns, {"role": "assistant", "content": said}])
                del self._conversations[model][:-20]

    def _talk(self, dice: random.Random, model: str) -> str:
        turns = self._turns(dice, model)
        body = self._body(dice, model, turns)
        if dice.random() < 0.5:
            reply = self._gateway.post("/v1/messages", body)
            assert reply.status == 200, reply.body
            if body["temperature"] == 0:
                self._keep(model, turns, "".join(block.get("text", "") for block in reply.json["content"]))
            return "answered"
        with self._gateway.stream("/v1/messages", {**body, "stream": True}) as events:
            assert events.status == 200
            names = [name for name, _ in events]
        assert names[-1] == "message_stop", names[-3:]
        return "streamed"

    def _talk_in_the_other_dialect(self, dice: random.Random, model: str) -> str:
        body = self._body(dice, model, self._turns(dice, model))
        del body["metadata"]
        with self._gateway.stream("/v1/chat/completions", {**body, "stream": True}) as events:
            assert events.status == 200
            assert [data for _, data in events][-1] == "[DONE]"
        return "streamed"

    def _leave(self, dice: random.Random, model: str) -> str:
        body = {**self._body(dice, model, self._turns(dice, model)), "stream": True, "max_tokens": 400}
        with self._gateway.stream("/v1/messages", body) as events:
            for _ in zip(range(dice.randrange(6)), events, strict=False):
                pass
        return "left"

    def _hang_up(self, dice: random.Random, model: str) -> str:
        """Without waiting for anything."""
        body = {**self._body(dice, model, self._turns(dice, model)), "max_tokens": 400}
        with self._gateway.connected("/v1/messages", body):
            threading.Event().wait(dice.random() * 0.05)
        return "hung up"

    def _count(self, dice: random.Random, model: str) -> str:
        body = {"model": model, "messages": self._turns(dice, model)}
        reply = self._gateway.post("/v1/messages/count_tokens", body)
        assert reply.status == 200, reply.body
        return "counted"

    def _twins(self, dice: random.Random, model: str) -> str:
        """The same greedy request twice at once."""
        body = {**self._body(dice, model, self._turns(dice, model)), "temperature": 0}
        with ThreadPoolExecutor(2) as pool:
            replies = list(pool.map(lambda _: self._gateway.post("/v1/messages", body), range(2)))
        assert [reply.status for reply in replies] == [200, 200]
        assert replies[0].json["content"] == replies[1].json["content"]
        return "twins"

    def _err(self, dice: random.Random, model: str) -> str:
        hello = [{"role": "user", "content": "hello"}]
        too_long = [{"role": "user", "content": standard_library_text(6 * CONTEXT_TOKENS)}]
        body, status = dice.choice(
            [
                (b"{", 400),
                ({"model": "unheard-of", "max_tokens": 5, "messages": hello}, 404),
                ({"model": model, "max_tokens": 5, "messages": []}, 400),
                ({"model": model, "max_tokens": -1, "messages": hello}, 400),
                ({"model": model, "max_tokens": 5, "messages": too_long}, 400),
            ]
        )
        reply = self._gateway.post("/v1/messages", body)
        assert reply.status == status, reply.body
        assert reply.json["error"]["message"]
        return "refused"


@contextlib.contextmanager
def soaked(redis_url: str, folder: Path, checkpoint: CheckpointMaker) -> Iterator[tuple[Served, dict[str, Running]]]:
    """A gateway and one worker of each model, all of the same host, with little memory and little disk."""
    settings: dict[str, Any] = {
        "cache_bytes": CACHE_BYTES,
        "ssd_cache_bytes": DISK_BYTES,
        "memory_bytes": 64 << 20,
        "max_context_tokens": CONTEXT_TOKENS,
        "prefill_step_tokens": 256,
    }
    with served(redis_url, folder, **settings) as gateway, contextlib.ExitStack() as stack:
        processes = {"gateway": gateway.process}
        for model in MODELS:
            command = ("-m", "worker", "--model", str(checkpoint(model)), "--engine", "mlx", "--name", model)
            log, env = folder / f"{model}.log", {**gateway.env, "MLX_CACHE_MIN_REUSE": "16"}
            processes[model] = stack.enter_context(running(*command, "--host", "host", log=log, env=env))
        wait_until(lambda: set(gateway.ready()) == set(MODELS), "all are ready", deadline_s=90)
        yield gateway, processes


def is_quiet(gateway: Served) -> bool:
    """Nothing is under way in the gateway, in a queue or on a worker."""
    lines = [line for page in ("/metrics", "/metrics/hosts") for line in gateway.get(page).body.decode().splitlines()]
    names = ("gw_inflight ", "gw_queue_depth{", "wk_in_flight{")
    return all(float(line.rsplit(" ", 1)[1]) == 0 for line in lines if line.startswith(names))


_PASSING = (
    "rq:job:",
    "rq:execution",
    *(f"{NAMES.deployment}:{kind}:" for kind in ("ended", "log", "gw", "ran", "bell", "placed")),
)


def check_redis(client: redis.Redis) -> None:
    """Whatever is there goes by itself, soon, or is of the fleet that lives."""
    for model in MODELS:
        assert not waiting_jobs(client, model)
        assert not running_jobs(client, model)
        for registry, ttl_s in (("finished", keys.RESULT_TTL_S), ("failed", keys.FAILURE_TTL_S)):
            scores = [
                score
                for lane in LANES
                for _, score in client.zrange(f"rq:{registry}:{NAMES.queue(model, lane)}", 0, -1, withscores=True)
            ]
            assert all(0 < score <= time.time() + ttl_s for score in scores), registry
    lasting = []
    for key in sorted(key.decode() for key in client.scan_iter()):
        ttl_s = client.ttl(key)
        assert not key.startswith(f"{NAMES.deployment}:req:"), f"{key} stays for {ttl_s} s"
        if ttl_s == -1:
            lasting.append(key)
            continue
        longest_s = {"log": keys.LOG_TTL_S, "lease": keys.LEASE_TTL_S}
        longest_s |= dict.fromkeys(("ran", "bell", "placed"), keys.BODY_TTL_S)
        longest_s |= {"disk": keys.DISK_TTL_S, "home": keys.HOME_TTL_S, "why": keys.WHY_TTL_S, "day": keys.DAY_TTL_S}
        assert ttl_s <= longest_s.get(key.removeprefix(f"{NAMES.deployment}:").split(":")[0], keys.FAILURE_TTL_S), (
            f"{key} stays for {ttl_s} s"
        )
    print("lasting keys:", lasting)
    # For each model RQ keeps its workers by list, own and shared, and three registries, all of these by lane.
    assert len(lasting) <= 4 + 5 * len(LANES) * len(MODELS), lasting
    assert not [key for key in lasting if key.startswith(_PASSING)]


def check_folder(folder: Path) -> None:
    stored = [path for path in (folder / "state" / "cache").rglob("*") if path.is_file()]
    assert {path.suffix for path in stored} == {".safetensors"}
    for model_folder in (folder / "state" / "cache").iterdir():
        assert sum(path.stat().st_size for path in model_folder.iterdir()) <= DISK_BYTES


@pytest.mark.slow
@pytest.mark.timeout(300 + 2 * REQUESTS)
def test_a_long_mixed_life_leaves_nothing_behind(
    redis_url: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    with soaked(redis_url, tmp_path, random_checkpoint) as (gateway, processes), gateway.client() as client:
        people = People(gateway)
        marks: list[dict[str, Mark]] = []
        for round_ in range(ROUNDS):
            with ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(people.act, range(round_ * REQUESTS, (round_ + 1) * REQUESTS)))
            wait_until(lambda: is_quiet(gateway), "all is over", deadline_s=30)
            marks.append({name: mark(process) for name, process in processes.items()})
            print({name: (m.resident_bytes >> 20, m.files, m.threads) for name, m in marks[-1].items()})
        print(dict(people.outcomes))
        warm, last = marks[WARM - 1], marks[-1]
        for name in processes:
            assert processes[name].process.poll() is None
            assert last[name].files <= warm[name].files + 2 * CLIENTS, (
                name
            )  # connections for as many as ever came at once
            assert last[name].threads <= warm[name].threads + 4, name  # pools that have not been full yet
            assert last[name].resident_bytes <= warm[name].resident_bytes + GROWTH_BYTES, name
            log = processes[name].output()
            assert "Traceback" not in log, log[-3000:]
        check_redis(client)
    check_folder(tmp_path)
    with redis.Redis.from_url(redis_url) as client:
        left = [key.decode() for key in client.scan_iter() if client.ttl(key) == -1]
    of_workers = (NAMES.lease(""), "rq:worker:", NAMES.workers, "rq:workers:")
    assert not [key for key in left if "@" in key or key.startswith(of_workers)], "stopped workers are forgotten"
