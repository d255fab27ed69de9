"""Two MLX workers on one host with little memory: they share it, requests go before caches, and a death frees it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.models.random_checkpoint import standard_library_text
from tests.support.models import CheckpointMaker
from tests.support.processes import Running, running, wait_until
from tests.support.served import Reply, Served, served
from worker.device.neighbours import read_holdings
from worker.device.sharing import Holding

ROOM_TOKENS = 9000  # for prompts, answers and caches of both workers
TOKEN_BYTES = 256
CHARACTERS = 2.65  # of the text to a token
SLACK_BYTES = 600_000  # what one pass computes, and batches padded to their longest row


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


class Watch:
    """Samples what the workers say as long as it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self.most_bytes = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.001):
            self.most_bytes = max(self.most_bytes, sum(holding.held_bytes for holding in read_holdings(self._folder)))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


class Host:
    """A gateway and two workers, `one` and `two`, of the same model under two names."""

    def __init__(self, gateway: Served, limit_bytes: int, workers: dict[str, Running]) -> None:
        self.gateway = gateway
        self.limit_bytes = limit_bytes
        self.workers = workers
        self.folder = gateway.folder / "state" / "device"

    def ask(self, model: str, words: str, tokens: int, *, max_tokens: int = 8) -> Reply:
        """A message of about `tokens` tokens that begins with `words`."""
        text = f"{words} {standard_library_text(int(tokens * CHARACTERS))}"
        body = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        }
        return self.gateway.post("/v1/messages", body)

    def holdings(self) -> list[Holding]:
        return read_holdings(self.folder)


@contextlib.contextmanager
def host_of(redis_url: str, folder: Path, checkpoint: Path) -> Iterator[Host]:
    limit_bytes = 2 * weight_bytes(checkpoint) + ROOM_TOKENS * TOKEN_BYTES
    settings: dict[str, Any] = {"memory_bytes": limit_bytes, "ssd_cache_bytes": -1, "prefill_step_tokens": 256}
    with served(redis_url, folder, **settings) as gateway, contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                running(
                    *("-m", "worker", "--model", str(checkpoint), "--engine", "mlx", "--name", name, "--host", "host"),
                    log=folder / f"{name}.log",
                    env={**gateway.env, "MLX_CACHE_MIN_REUSE": "16"},
                )
            )
            for name in ("one", "two")
        }
        wait_until(lambda: set(gateway.ready()) == {"one", "two"}, "both are ready", deadline_s=60)
        yield Host(gateway, limit_bytes, workers)


@pytest.fixture
def host(redis_url: str, tmp_path: Path, random_checkpoint: CheckpointMaker) -> Iterator[Host]:
    with host_of(redis_url, tmp_path, random_checkpoint("full")) as host:
        yield host


def input_tokens(reply: Reply) -> int:
    usage = reply.json["usage"]
    return int(usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"])


@pytest.mark.slow
def test_an_idle_workers_cache_makes_room_for_a_busy_one(host: Host) -> None:
    with Watch(host.folder) as watch:
        for number in range(4):
            assert host.ask("one", f"conversation {number}", 800).status == 200
        kept = max(holding.spare_bytes for holding in host.holdings())
        assert kept > 1500 * TOKEN_BYTES
        reply = host.ask("two", "a long one", ROOM_TOKENS * 7 // 10)
        assert reply.status == 200, reply.body
        assert input_tokens(reply) > ROOM_TOKENS // 2
    wait_until(lambda: not any(holding.running_bytes for holding in host.holdings()), "both are idle")
    assert watch.most_bytes <= host.limit_bytes + SLACK_BYTES
    one, _two = (host.ask(name, "still there", 100) for name in ("one", "two"))
    assert one.status == 200


@pytest.mark.slow
def test_what_can_never_fit_beside_the_other_model_is_refused_at_once_and_fits_when_that_is_gone(host: Host) -> None:
    assert host.ask("one", "hello", 50).status == 200
    assert host.ask("two", "hello", 50).status == 200
    tokens = ROOM_TOKENS * 11 // 10
    refused = host.ask("two", "too long", tokens)
    assert refused.status == 400
    message = refused.json["error"]["message"]
    assert message.startswith("prompt is too long: ")
    assert "tokens > " in message
    assert " maximum" in message
    assert "MB of memory" in message
    host.workers["one"].process.kill()
    host.workers["one"].process.wait()
    wait_until(lambda: len(host.holdings()) == 1, "the dead one's memory is free")
    answered = host.ask("two", "too long", tokens)
    assert answered.status == 200, answered.body


@pytest.mark.slow
def test_requests_of_both_at_once_stay_within_the_limit_and_all_are_answered(host: Host) -> None:
    def ask(number: int) -> Reply:
        return host.ask("one" if number % 2 else "two", f"{number}", 600 + 450 * (number % 4), max_tokens=60)

    with Watch(host.folder) as watch, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(ask, range(10)))
    assert [reply.status for reply in replies] == [200] * 10
    assert watch.most_bytes <= host.limit_bytes + SLACK_BYTES
    for worker in host.workers.values():
        assert worker.process.poll() is None
