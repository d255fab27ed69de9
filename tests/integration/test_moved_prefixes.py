"""Two hosts with the same model and files of their own: a conversation whose host leaves, or whose worker dies, goes on
at the other, which fetches what was computed.

Both run on one machine and read over its loopback: nothing is shown of real links.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from shared.config import Settings
from shared.membership import with_membership
from shared.processes import EXIT_LEFT
from shared.redis_server import RedisServer
from shared.registry import WorkerLease
from tests.models.random_checkpoint import standard_library_text
from tests.support.door import OpenedDoor, opened_door
from tests.support.models import CheckpointMaker
from tests.support.names import NAMES
from tests.support.processes import Running, running, wait_until
from tests.support.sealed import SECRET, open_lease
from tests.support.served import Reply, Served, served

CHAT = "/v1/chat/completions"
LATEST_PAUSE_S = 60.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Talk:
    """A conversation whose client sends back what it was shown, and nothing else."""

    gateway: Served
    model: str
    name: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    def turn(self, text: str) -> Reply:
        self.messages.append({"role": "user", "content": text})
        body = {"model": self.model, "max_tokens": 40, "temperature": 0, "messages": self.messages}
        reply = self.gateway.post(CHAT, body, {"x-session-id": self.name})
        assert reply.status == 200, reply.body
        self.messages.append({"role": "assistant", "content": reply.json["choices"][0]["message"]["content"]})
        return reply


def worker_of(reply: Reply) -> str:
    return reply.headers["x-mlx-gateway-worker"].partition(";")[0]


def computed(reply: Reply) -> int:
    usage = reply.json["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return int(usage["prompt_tokens"]) - int(cached)


@dataclass
class Fleet:
    gateway: Served
    client: redis.Redis
    model: Path
    stack: ExitStack
    door: OpenedDoor | None = None  # through which they read; else at addresses of their own
    hosts: dict[str, Running] = field(default_factory=dict)

    def start(self, name: str) -> None:
        state = self.gateway.folder / name
        environment = {**self.gateway.env, "MLX_GATEWAY_STATE_DIR": str(state)}
        if self.door is None:
            environment["MLX_GATEWAY_CACHE_LISTEN"] = "127.0.0.1:0"
        else:
            joined = with_membership(Settings(state_dir=state), self.door.join(state, name))
            environment |= {"REDIS_URL": joined.redis_url, "MLX_GATEWAY_HOST_KEY": joined.host_key}
            environment.pop("MLX_GATEWAY_SECRET")
        words = ("-m", "worker.host.host", "--name", name, "--model", str(self.model))
        log = self.gateway.folder / f"{name}.log"
        self.hosts[name] = self.stack.enter_context(running(*words, log=log, env=environment))
        wait_until(lambda: self.lease(name), f"a worker on {name}", deadline_s=LATEST_PAUSE_S)

    def lease(self, name: str) -> WorkerLease | None:
        """Of the host's worker, when it is ready."""
        for worker in self.client.smembers(NAMES.workers):
            data = self.client.get(NAMES.lease(worker.decode()))
            if data is not None and worker.decode().startswith(f"{name}."):
                lease = open_lease(worker.decode(), data)
                if lease.state == "ready":
                    return lease
        return None

    def talk_on(self, name: str, text: str) -> Talk:
        """A conversation that began on this host, and is in its files."""
        for number in range(8):
            talk = Talk(self.gateway, self.model.name, f"talk{number}")
            talk.messages.append({"role": "system", "content": f"Number {number}. {text}"})
            if worker_of(talk.turn("What is in the library?")).startswith(f"{name}."):
                break
        else:
            raise AssertionError(f"nothing began on {name}")
        told = NAMES.disk(name, self.model.name)
        wait_until(lambda: self.client.zcard(told) >= 2, "it is in files")
        return talk


@pytest.fixture(params=["addresses", "door"])
def fleet(request: pytest.FixtureRequest, random_checkpoint: CheckpointMaker, tmp_path: Path) -> Iterator[Fleet]:
    """Host `b` has measured what prefill costs; so much that to fetch is sooner. Host `a` came later."""
    with RedisServer() as server, ExitStack() as stack:
        gateway = stack.enter_context(served(server.url, tmp_path, cache_min_reuse_tokens=64))
        client = stack.enter_context(redis.Redis.from_url(server.url))
        found = Fleet(gateway, client, random_checkpoint("full", params=1e6), stack)
        if request.param == "door":
            found.door = stack.enter_context(opened_door(tmp_path / "studio", server, secret=SECRET))
        found.start("b")
        talk = Talk(gateway, found.model.name, "first")
        for number in range(3):
            talk.turn(standard_library_text(200 + number))
        wait_until(lambda: (lease := found.lease("b")) and lease.prefill_cost.is_known, "what prefill costs")
        found.start("a")
        yield found


def leave(fleet: Fleet) -> None:
    fleet.hosts["a"].signal(signal.SIGUSR1)
    wait_until(lambda: not fleet.lease("a"), "the worker has ended")


def die(fleet: Fleet) -> None:
    lease = fleet.lease("a")
    assert lease is not None
    os.kill(lease.pid, signal.SIGKILL)
    wait_until(lambda: not fleet.lease("a"), "the worker has died")


@pytest.mark.parametrize("how", [leave, die])
def test_a_conversation_whose_host_leaves_or_whose_worker_dies_is_fetched_by_the_other(how: Any, fleet: Fleet) -> None:
    talk = fleet.talk_on("a", standard_library_text(6000))
    how(fleet)
    reply = talk.turn("And what else?")
    assert worker_of(reply).startswith("b.")
    assert reply.json["usage"]["prompt_tokens"] > 2000
    assert computed(reply) <= 200
    wait_until(lambda: (lease := fleet.lease("b")) and lease.metrics["fetched_tokens"], "its lease says so")
    wait_until(lambda: (lease := fleet.lease("b")) and lease.link_bytes_per_s.keys() == {"a"}, "and how fast that was")
    assert computed(talk.turn("Go on.")) <= 200, "it is at home there now"


def test_a_host_that_is_told_to_leave_finishes_what_runs_and_takes_nothing_new(fleet: Fleet) -> None:
    talk = fleet.talk_on("a", standard_library_text(2000))
    endless = {"model": fleet.model.name, "max_tokens": 600, "temperature": 0, "stream": True}
    body = {**endless, "messages": [*talk.messages, {"role": "user", "content": "Tell me all."}]}
    with fleet.gateway.stream(CHAT, body, {"x-session-id": talk.name}) as stream:
        events = iter(stream)
        next(events)
        fleet.hosts["a"].signal(signal.SIGUSR1)
        said = [data for _, data in events]
    assert said[-1] == "[DONE]"
    wait_until(lambda: not fleet.lease("a"), "the worker has ended")
    assert worker_of(talk.turn("What is new?")).startswith("b.")
    words = ("-m", "gateway.command.cli", "host", "--drain", "--name", "a")
    command = fleet.stack.enter_context(running(*words, log=fleet.gateway.folder / "drain.log", env=fleet.gateway.env))
    command.wait_for_line("a lends what its conversations have kept")
    fleet.hosts["b"].stop()
    assert fleet.hosts["a"].wait() == EXIT_LEFT, "with nobody left to lend to it does not wait"
    assert command.wait() == 0


@pytest.mark.parametrize("fleet", ["door"], indirect=True)
def test_what_a_host_that_leaves_has_kept_is_taken_over_before_anybody_asks_and_warm_when_it_is_gone(
    fleet: Fleet,
) -> None:
    talk = fleet.talk_on("a", standard_library_text(6000))
    leave(fleet)

    def is_taken_over() -> bool:
        """All that `a` has in files of the conversation is in files of `b`."""
        theirs, ours = (set(fleet.client.zrange(NAMES.disk(name, fleet.model.name), 0, -1)) for name in ("a", "b"))
        return bool(theirs) and theirs <= ours

    wait_until(is_taken_over, "what was kept is taken over", deadline_s=LATEST_PAUSE_S)
    fleet.hosts["a"].stop()
    wait_until(lambda: not fleet.client.exists(NAMES.host("a")), "the host is gone")
    reply = talk.turn("And what else?")
    assert worker_of(reply).startswith("b.")
    assert reply.json["usage"]["prompt_tokens"] > 2000
    assert computed(reply) <= 200
