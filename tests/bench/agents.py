"""Traffic of coding agents: sessions that grow by tool results, subagents in bursts, one head that all share.

A word stands for `TOKENS_PER_WORD` tokens, and time runs `SPEED` times faster than on a clock, so that hours of eight
Macs fits into minutes of two cores: rates are set accordingly, and all figures are told in tokens and seconds as they
would be. Everything is drawn from a seed: each rule gets the same traffic, but what follows an answer begins when the
answer has come.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson

TOKENS_PER_WORD = 10
SPEED = 10.0
HEAD_TOKENS = 18_000
SUBAGENT_TOKENS = 12_000
CONTEXT_TOKENS = 100_000  # then the session is compacted
THINKS_S = 6.0  # mean, between an answer and the next turn: tools run
TURN_TOKENS = (200, 4_000)
ANSWER_TOKENS = (60, 600)
BURST_SHARE = 0.08  # of turns that start subagents
BURST = (2, 4)
SUBAGENT_TURNS = (3, 7)


@dataclass(slots=True)
class Turn:
    """One request that was answered: seconds of the simulated time."""

    conversation: str
    is_subagent: bool
    first_s: float
    worker: str
    reason: str
    tokens: int
    cached: int


@dataclass(slots=True)
class Traffic:
    """What clients saw."""

    turns: list[Turn] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    is_counted: bool = False

    def note(self, turn: Turn) -> None:
        if self.is_counted:
            self.turns.append(turn)


def words(name: str, tokens: int) -> str:
    return " ".join(f"{name}{number}" for number in range(max(1, tokens // TOKENS_PER_WORD)))


class Conversation:
    """One agent's messages with a model."""

    def __init__(self, name: str, headers: dict[str, str], system: str) -> None:
        self.name = name
        self.headers = headers
        self._system = system
        self._messages: list[dict[str, Any]] = []
        self._said = 0
        self.tokens = TOKENS_PER_WORD * len(system.split())

    def body(self, model: str, said_tokens: int, answer_tokens: int) -> dict[str, Any]:
        self._said += 1
        asked = f"{words(f'{self.name}-{self._said}-', said_tokens)}\necho:words {answer_tokens // TOKENS_PER_WORD}"
        self._messages.append({"role": "user", "content": asked})
        self.tokens += said_tokens
        return {
            "model": model,
            "max_tokens": 10_000,
            "stream": True,
            "system": self._system,
            "messages": self._messages,
        }

    def note_answer(self, text: str) -> None:
        self._messages.append({"role": "assistant", "content": text})
        self.tokens += TOKENS_PER_WORD * len(text.split())


class Agents:
    """`sessions` people at work until told to stop."""

    def __init__(self, port: int, model: str, *, sessions: int, seed: int) -> None:
        self._port = port
        self._model = model
        self._sessions = sessions
        self._seed = seed
        self._head = words("head", HEAD_TOKENS)
        self._subagent_head = words("sub", SUBAGENT_TOKENS)
        self.traffic = Traffic()

    async def run(self, *, warm_s: float, measured_s: float) -> Traffic:
        """Seconds of the wall clock: the first ones are not counted."""
        tasks = [asyncio.create_task(self._session(number)) for number in range(self._sessions)]
        await asyncio.sleep(warm_s)
        self.traffic.is_counted = True
        await asyncio.sleep(measured_s)
        self.traffic.is_counted = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self.traffic

    async def _session(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        await asyncio.sleep(chance.uniform(0, 2 * THINKS_S) / SPEED)
        for life in range(10_000):
            name = f"s{number}l{life}"
            conversation = Conversation(name, {"x-claude-code-session-id": name}, self._head)
            while conversation.tokens < CONTEXT_TOKENS:
                if chance.random() < BURST_SHARE:
                    await self._burst(name, chance)
                await self._turn(conversation, chance, is_subagent=False)
                await asyncio.sleep(chance.expovariate(1 / THINKS_S) / SPEED)

    async def _burst(self, session: str, chance: random.Random) -> None:
        count = chance.randint(*BURST)
        seeds = [chance.random() for _ in range(count)]
        async with asyncio.TaskGroup() as group:
            for seed in seeds:
                group.create_task(self._subagent(session, random.Random(seed)))

    async def _subagent(self, session: str, chance: random.Random) -> None:
        name = f"{session}a{chance.getrandbits(40):x}"
        headers = {"x-claude-code-session-id": session, "x-claude-code-agent-id": name}
        conversation = Conversation(name, headers, self._subagent_head)
        for _ in range(chance.randint(*SUBAGENT_TURNS)):
            await self._turn(conversation, chance, is_subagent=True)
            await asyncio.sleep(chance.expovariate(2 / THINKS_S) / SPEED)

    async def _turn(self, conversation: Conversation, chance: random.Random, *, is_subagent: bool) -> None:
        low, high = TURN_TOKENS
        said = int(low * (high / low) ** chance.random())
        body = conversation.body(self._model, said, chance.randint(*ANSWER_TOKENS))
        try:
            text = await self._ask(conversation, body, is_subagent=is_subagent)
        except (OSError, EOFError, RuntimeError, ValueError) as error:
            self.traffic.errors.append(str(error)[:200])
            await asyncio.sleep(THINKS_S / SPEED)
            text = "(no answer)"
        conversation.note_answer(text)

    async def _ask(self, conversation: Conversation, body: dict[str, Any], *, is_subagent: bool) -> str:
        began_s, first_s, text = time.monotonic(), 0.0, []
        usage: dict[str, Any] = {}
        headers: dict[str, str] = {}
        async for event in _post(self._port, "/v1/messages", body, conversation.headers, headers):
            if event["type"] == "content_block_delta":
                first_s = first_s or time.monotonic() - began_s
                text.append(event["delta"].get("text", ""))
            usage |= event.get("message", {}).get("usage", {}) | event.get("usage", {})
            if event["type"] == "error":
                raise RuntimeError(str(event["error"]))
        worker, _, reason = headers.get("x-mlx-gateway-worker", "").partition("; ")
        cached = usage.get("cache_read_input_tokens", 0)
        total = cached + usage.get("input_tokens", 0) + usage.get("cache_creation_input_tokens", 0)
        scale = TOKENS_PER_WORD
        self.traffic.note(
            Turn(conversation.name, is_subagent, first_s * SPEED, worker, reason, total * scale, cached * scale)
        )
        return "".join(text)


async def _post(
    port: int, path: str, body: dict[str, Any], headers: dict[str, str], found: dict[str, str]
) -> AsyncIterator[dict[str, Any]]:
    """Events of a streamed answer; `found` gets the answer's headers. Raises `RuntimeError` for a refusal."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        payload = orjson.dumps(body)
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(payload)}", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found.update({k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)})
        if head[0].split()[1] != "200":
            raise RuntimeError(f"{head[0]}: {(await reader.read(300)).decode(errors='replace')}")
        async for line in reader:
            if line.startswith(b"data: "):
                yield orjson.loads(line[6:])
    finally:
        writer.close()
