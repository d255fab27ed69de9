"""Traffic of coding agents: sessions that grow by tool results, subagents in bursts, one head that all share.

A word stands for `TOKENS_PER_WORD` tokens, and time runs `SPEED` times faster than on a clock, so that hours of eight
Macs fits into minutes of two cores: rates are set accordingly, and all figures are told in tokens and seconds as they
would be. Everything is drawn from a seed: each rule gets the same traffic, but what follows an answer begins when the
answer has come. So who is served sooner asks more, and a mean over some time is over other turns with each rule:
`run_turns` asks for the same ones.
"""

from __future__ import annotations

import asyncio
import contextlib
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
_SLEEP_S = 0.05


@dataclass(slots=True)
class Turn:
    """One request that was answered: seconds of the simulated time. `number` is which turn of its session it is, or, of
    a subagent, is asked for."""

    conversation: str
    number: int
    is_subagent: bool
    first_s: float
    worker: str
    reason: str
    tokens: int
    cached: int


@dataclass(slots=True)
class Traffic:
    """What clients saw, in `took_s`. `numbers` are those of the turns that count, None for all; `late_s` says how much
    longer than asked for the bench slept, each time: both in seconds of the simulated time."""

    turns: list[Turn] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    is_counted: bool = False
    numbers: range | None = None
    took_s: float = 0.0

    def note(self, turn: Turn) -> None:
        if self.is_counted and (self.numbers is None or turn.number in self.numbers):
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
        self._at = [-1] * sessions  # which turn each session is at
        self._goes_on = asyncio.Event()  # one has come to its next turn
        self.traffic = Traffic()

    async def run(self, *, warm_s: float, measured_s: float) -> Traffic:
        """Seconds of the wall clock: the first ones are not counted."""
        async with self._at_work():
            await asyncio.sleep(warm_s)
            async with self._counting():
                await asyncio.sleep(measured_s)
        return self.traffic

    async def run_turns(self, turns: range, *, limit_s: float) -> Traffic:
        """These turns of every session, and those of the subagents that it starts for them: the same ones whatever the
        rule. Whoever is done goes on until all are, so that the last ones do not meet an idle fleet. What has not come
        after `limit_s` of the wall clock is an error for each session that waits for it."""
        self.traffic.numbers = turns
        async with self._at_work(), self._counting():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    while self._behind(turns):
                        self._goes_on.clear()
                        await self._goes_on.wait()
            self.traffic.errors += [f"session {number} is not done" for number in self._behind(turns)]
        return self.traffic

    def _behind(self, turns: range) -> list[int]:
        """Sessions that have asked for nothing later than these."""
        return [number for number, at in enumerate(self._at) if at < turns.stop]

    @contextlib.asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._session(number)) for number in range(self._sessions)]
        tasks.append(asyncio.create_task(self._keep_time()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _counting(self) -> AsyncIterator[None]:
        began_s, self.traffic.is_counted = time.monotonic(), True
        yield
        self.traffic.took_s, self.traffic.is_counted = SPEED * (time.monotonic() - began_s), False

    async def _keep_time(self) -> None:
        while True:
            due_s = time.monotonic() + _SLEEP_S
            await asyncio.sleep(_SLEEP_S)
            self.traffic.late_s.append(SPEED * (time.monotonic() - due_s))

    async def _session(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        await asyncio.sleep(chance.uniform(0, 2 * THINKS_S) / SPEED)
        for life in range(10_000):
            name = f"s{number}l{life}"
            conversation = Conversation(name, {"x-claude-code-session-id": name}, self._head)
            while conversation.tokens < CONTEXT_TOKENS:
                self._at[number] += 1
                self._goes_on.set()
                if chance.random() < BURST_SHARE:
                    await self._burst(name, self._at[number], chance)
                await self._turn(conversation, self._at[number], chance, is_subagent=False)
                await asyncio.sleep(chance.expovariate(1 / THINKS_S) / SPEED)

    async def _burst(self, session: str, number: int, chance: random.Random) -> None:
        count = chance.randint(*BURST)
        seeds = [chance.random() for _ in range(count)]
        async with asyncio.TaskGroup() as group:
            for seed in seeds:
                group.create_task(self._subagent(session, number, random.Random(seed)))

    async def _subagent(self, session: str, number: int, chance: random.Random) -> None:
        name = f"{session}a{chance.getrandbits(40):x}"
        headers = {"x-claude-code-session-id": session, "x-claude-code-agent-id": name}
        conversation = Conversation(name, headers, self._subagent_head)
        for _ in range(chance.randint(*SUBAGENT_TURNS)):
            await self._turn(conversation, number, chance, is_subagent=True)
            await asyncio.sleep(chance.expovariate(2 / THINKS_S) / SPEED)

    async def _turn(self, conversation: Conversation, number: int, chance: random.Random, *, is_subagent: bool) -> None:
        low, high = TURN_TOKENS
        said = int(low * (high / low) ** chance.random())
        body = conversation.body(self._model, said, chance.randint(*ANSWER_TOKENS))
        try:
            text = await self._ask(conversation, number, body, is_subagent=is_subagent)
        except (OSError, EOFError, RuntimeError, ValueError) as error:
            self.traffic.errors.append(str(error)[:200])
            await asyncio.sleep(THINKS_S / SPEED)
            text = "(no answer)"
        conversation.note_answer(text)

    async def _ask(self, conversation: Conversation, number: int, body: dict[str, Any], *, is_subagent: bool) -> str:
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
            Turn(
                *(conversation.name, number, is_subagent, first_s * SPEED),
                *(worker, reason, total * scale, cached * scale),
            )
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
