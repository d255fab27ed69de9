"""A person's request behind two hundred batch jobs: what it waits for, and what becomes of them.

The stack has four places; batch work holds them all and waits in the queue behind them. Each measured request is of the
first class and comes at a moment of its own within a step; beside it stands the same request while nothing else runs. A
prompt of one chunk should wait for one decode step more than alone, a longer one for one step per chunk.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.contenders import Stack
from tests.bench.report import Table, median, seconds
from tests.bench.wire import Answer, Connection, chat
from tests.models.random_checkpoint import build_checkpoint, standard_library_text

CAPACITY = 4
JOBS = 200
ROUNDS = {"one chunk": 15, "several chunks": 5}
_MLX_CHUNK_TOKENS = 512
_ENVIRONMENT = {
    "MLX_GATEWAY_CAPACITY": str(CAPACITY),
    "MLX_GATEWAY_MAX_QUEUE": str(4 * JOBS),  # batch work may fill half of it
    "MLX_GATEWAY_PREFILL_STEP_TOKENS": str(_MLX_CHUNK_TOKENS),
    "MLX_GATEWAY_DECODE_STALL_TARGET_MS": "2000",  # chunks are as long behind the load as alone
}
_PLACED_WITHIN_S, _LOOK_S = 120.0, 0.25
_STEP_MS, _ECHO_TOKENS_PER_S = 20.0, 2000.0
_ECHO_CHUNK_TOKENS = round(_ECHO_TOKENS_PER_S / 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """An engine: how a batch job asks for its answer of `answer_tokens`, how much of a prompt it computes at a time,
    and the prompts to measure, in characters."""

    name: str
    question: str
    answer_tokens: int
    chunk_tokens: int
    characters: dict[str, int]


ECHO = Side(
    name="echo",
    question="echo:words 40",
    answer_tokens=40,
    chunk_tokens=_ECHO_CHUNK_TOKENS,
    characters={"one chunk": 900, "several chunks": 13_000},
)
MLX = Side(
    name="MLX",
    question="Go on.",
    answer_tokens=96,
    chunk_tokens=_MLX_CHUNK_TOKENS,
    characters={"one chunk": 900, "several chunks": 9_300},
)


async def measure_classes(folder: Path, params: float, *, jobs: int = JOBS) -> Table:
    """On the echo engine, whose steps take 20 ms and vary little, and on the MLX engine with a model made in
    `folder`."""
    table = Table(
        title=f"First token of an interactive request behind {jobs} batch jobs, {CAPACITY} places (medians)",
        head=("", "alone", "behind them", "worst", "a step", "chunks", "steps more", "a chunk"),
    )
    options = {"step_ms": _STEP_MS, "prefill_tokens_per_s": _ECHO_TOKENS_PER_S}
    config = {"models": [{"id": "echo", "source": "echo", "engine": "echo", "options": options}]}
    await _measure(ECHO, Stack(Path("echo"), config=config, environment=_ENVIRONMENT), table, jobs)
    model = await asyncio.to_thread(build_checkpoint, "full", folder / "classes", params=params)
    await _measure(MLX, Stack(model, environment=_ENVIRONMENT), table, jobs)
    return table


async def _measure(side: Side, stack: Stack, table: Table, jobs: int) -> None:
    await stack.start()
    try:
        for name in side.characters:  # its costs are known from here on
            await _first(side, stack, name)
        alone = {name: [await _first(side, stack, name) for _ in range(n)] for name, n in ROUNDS.items()}
        batch = [asyncio.create_task(_job(side, stack)) for _ in range(jobs)]
        await _all_placed(stack, batch)
        behind = {name: [await _first(side, stack, name) for _ in range(n)] for name, n in ROUNDS.items()}
        ended = sum(job.done() for job in batch)
        answers = await asyncio.gather(*batch)
    finally:
        paused = len(re.findall(r"job \S+ is paused", _worker_log(stack)))
        await stack.stop()
    if ended >= jobs - CAPACITY:
        raise RuntimeError(f"{side.name}: {ended} of {jobs} batch jobs had ended before the last measurement")
    step_s = _step_s(answers)
    for name in ROUNDS:
        table.add(*_row(side, name, alone[name], behind[name], step_s))
    whole = sum(answer.output_tokens == side.answer_tokens for answer in answers)
    gap_s = max(answer.longest_gap_s for answer in answers)
    table.notes.append(
        f"{side.name}: {whole} of {jobs} batch answers came whole; {paused} pauses; the longest gap within one "
        f"{seconds(gap_s)}; {ended} had ended when the last was measured"
    )


async def _all_placed(stack: Stack, batch: Sequence[asyncio.Task[Answer]]) -> None:
    """Return when the worker holds all jobs or has them on its lists: before that a request stands in the burst in
    which they come, not behind them."""
    async with asyncio.timeout(_PLACED_WITHIN_S):
        while sum(job.done() for job in batch) + await _known_jobs(stack) < len(batch):  # noqa: ASYNC110 - another's
            await asyncio.sleep(_LOOK_S)


async def _known_jobs(stack: Stack) -> int:
    return sum(sum(lease.held) + sum(lease.queued) for lease in await stack.leases())


def _row(side: Side, name: str, alone: Sequence[Answer], behind: Sequence[Answer], step_s: float) -> tuple[str, ...]:
    alone_s, behind_s = (median([answer.first_s for answer in answers]) for answers in (alone, behind))
    chunks = math.ceil(median([answer.input_tokens for answer in behind]) / side.chunk_tokens)
    steps = (behind_s - alone_s) / step_s
    worst_s = max(answer.first_s for answer in behind)
    times = [seconds(value) for value in (alone_s, behind_s, worst_s, step_s)]
    return f"{side.name}, {name}", *times, str(chunks), f"{steps:.1f}", f"{steps / chunks:.1f}"


def _step_s(answers: Sequence[Answer]) -> float:
    """Between two tokens of a batch job."""
    gaps = [
        (answer.text_times_s[-1] - answer.text_times_s[0]) / (len(answer.text_times_s) - 1)
        for answer in answers
        if len(answer.text_times_s) > 1
    ]
    return median(gaps)


async def _first(side: Side, stack: Stack, prompt: str) -> Answer:
    await asyncio.sleep(random.random() * 4 * _STEP_MS / 1000)
    text = f"{secrets.token_hex(8)} {standard_library_text(side.characters[prompt])}"
    question = "echo:words 2" if side is ECHO else side.question
    messages = [{"role": "system", "content": text}, {"role": "user", "content": question}]
    return await _ask(stack, {"messages": messages, "max_tokens": 2})


async def _job(side: Side, stack: Stack) -> Answer:
    messages = [{"role": "user", "content": f"Job {secrets.token_hex(4)}.\n{side.question}"}]
    return await _ask(stack, {"messages": messages, "max_tokens": side.answer_tokens, "service_tier": "flex"})


async def _ask(stack: Stack, body: dict[str, Any]) -> Answer:
    connection = Connection("127.0.0.1", stack.port)
    try:
        return await chat(connection, {"model": stack.model, "temperature": 0.0, **body})
    finally:
        await connection.close()


def _worker_log(stack: Stack) -> str:
    return "".join(path.read_text(errors="replace") for path in stack.worker_logs())
