"""Conversations on several hosts stay where they are warm, whichever gateway they come through.

The hosts are echo workers that pass for Macs: prompts take time, and prefixes are kept. What is not shown: real models,
real links between machines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.redis_server import RedisServer
from tests.support.processes import REPOSITORY, wait_until
from tests.support.served import Reply, Served, served

MESSAGES = "/v1/messages"
CONVERSATIONS, TURNS = 12, 3
_MAC = {"prefill_tokens_per_s": 20_000, "step_ms": 1, "cache_tokens": 200_000}
_HEAD = " ".join(f"rule{number}" for number in range(200))


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    with RedisServer() as server, ExitStack() as stack:
        one, other = (stack.enter_context(served(server.url, tmp_path_factory.mktemp("gateway"))) for _ in range(2))
        yield one, other


@dataclass
class Talk:
    """A conversation as Claude Code has it. `workers` answered its turns."""

    name: str
    model: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0

    def turn(self, gateway: Served, words: int) -> Reply:
        said = " ".join(f"{self.name}word{len(self.messages)}x{number}" for number in range(words))
        self.messages.append({"role": "user", "content": said})
        body = {"model": self.model, "max_tokens": 20, "system": _HEAD, "messages": self.messages}
        reply = gateway.post(MESSAGES, body, {"x-claude-code-session-id": f"session-{self.name}"})
        assert reply.status == 200, reply.body
        self.messages.append({"role": "assistant", "content": reply.json["content"]})
        worker, _, reason = reply.headers["x-mlx-gateway-worker"].partition("; ")
        self.workers.append(worker)
        self.reasons.append(reason)
        usage = reply.json["usage"]
        self.cached += usage["cache_read_input_tokens"]
        self.tokens += usage["cache_read_input_tokens"] + usage["input_tokens"] + usage["cache_creation_input_tokens"]
        return reply

    @property
    def moves(self) -> int:
        """Without a gain that was named."""
        pairs = zip(self.workers, self.workers[1:], self.reasons[1:], strict=False)
        return sum(before != after and not reason.startswith("moves:") for before, after, reason in pairs)


def talk(gateways: Sequence[Served], model: str) -> list[Talk]:
    """All conversations, turn by turn, through one gateway after the other."""
    talks = [Talk(f"{model}{number}", model) for number in range(CONVERSATIONS)]
    for turn in range(TURNS):
        for number, each in enumerate(talks):
            each.turn(gateways[(number + turn) % len(gateways)], 300)
    return talks


def share(talks: Sequence[Talk]) -> float:
    return sum(each.cached for each in talks) / sum(each.tokens for each in talks)


def heads(talks: Sequence[Talk]) -> float:
    """What each host but the first has to compute of the head that all share, as a part of all tokens: on a busy
    machine a conversation may begin sooner on another."""
    hosts = {worker.partition(".")[0] for each in talks for worker in each.workers}
    return (len(hosts) - 1) * len(_HEAD.split()) / sum(each.tokens for each in talks)


@pytest.mark.slow
def test_twelve_conversations_through_two_gateways_on_three_hosts_are_as_warm_as_on_one(
    gateways: tuple[Served, Served],
) -> None:
    with ExitStack() as stack:
        for host in ("one", "two", "three"):
            stack.enter_context(gateways[0].worker("several", host=host, **_MAC))
        stack.enter_context(gateways[0].worker("single", host="one", **_MAC))
        for gateway in gateways:
            wait_until(lambda gateway=gateway: workers_of(gateway, "several") == 3, "all are seen")  # type: ignore[misc]
        several, single = talk(gateways, "several"), talk(gateways, "single")
        print("moved", sum(each.moves for each in several), "of", CONVERSATIONS * (TURNS - 1))
        print("hosts", sorted({worker.partition(".")[0] for each in several for worker in each.workers}))
        print("share", share(several), share(single))
        assert sum(each.moves for each in several) == 0
        assert share(several) > share(single) - 0.01 - heads(several)
        explained = explain(gateways[0], several[0].turn(gateways[1], 10))
    assert re.search(r"attempt 1 went to (one|two|three)\.several\.\w+: home", explained)
    assert len(re.findall(r"^  (?:one|two|three)\.several\.", explained, re.MULTILINE)) == 3
    assert re.search(r"\d+ of \d+ tokens were cached \(predicted \d+\)", explained)


def workers_of(gateway: Served, model: str) -> int:
    return sum(worker["model"] == model for worker in gateway.get("/status").json["workers"])


def explain(gateway: Served, reply: Reply) -> str:
    """What the command says of a request."""
    request_id = reply.headers["request-id"]
    wait_until(lambda: b"end" in gateway.client().hkeys(f"mlxgw:why:{request_id}"), "its end is noted")
    command = [sys.executable, "-m", "gateway.command.cli", "explain", request_id]
    environment = {**os.environ, **gateway.env}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=REPOSITORY).stdout
