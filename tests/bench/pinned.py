"""What the whole stack takes of the bare engine's rate when each has a core of its own beside the rest.

The engine's process is pinned to the first core and everything else, the client too, to the second; once with the model
as it is, whose passes the first core computes, and once with a device whose passes take 8 ms (`paced`), as on a Mac.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench import paced
from tests.bench.contenders import Bare, Contender, Stack
from tests.bench.prompts import Renderer, build_short
from tests.bench.report import Table, median, ratio
from tests.support.processes import REPOSITORY

COUNTS = (1, 16)
ROUNDS = 3
TOKENS = 96
STEP_S = 0.008
_ENGINE, _REST = {0}, {1}


async def measure_pinned(model: Path, renderer: Renderer) -> Table:
    table = Table(
        title=f"Tokens a second, the engine on a core of its own, {TOKENS} tokens a stream, median of {ROUNDS} turns",
        head=("", "streams", "this stack", "bare engine", "ratio"),
    )
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        table.notes.append("this system pins no process to a core, or has only one")
        return table
    with _pinned(), tempfile.TemporaryDirectory() as folder:
        slow = dict(paced.environment(Path(folder), REPOSITORY, STEP_S))
        for name, environment in (("the model's own passes", {}), (f"passes of {1000 * STEP_S:.0f} ms", slow)):
            rates = await _rates(model, renderer, environment)
            for count in COUNTS:
                ours, bare = (median(rates[who, count]) for who in ("this stack", "bare engine"))
                table.add(name, f"{count}", f"{ours:.0f}", f"{bare:.0f}", ratio(ours, bare))
    return table


@contextmanager
def _pinned() -> Iterator[None]:
    """This process and all that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _REST)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _rates(model: Path, renderer: Renderer, environment: dict[str, str]) -> dict[tuple[str, int], list[float]]:
    stack, bare = Stack(model, environment=environment), Bare(model, renderer, environment=environment)
    rates: dict[tuple[str, int], list[float]] = {}
    try:
        await stack.start()
        await bare.start()
        for pid in (*await stack.ready_workers(), bare.pid):
            _pin_threads(pid)
        for number in range(ROUNDS + 1):
            for count in COUNTS:
                for contender in (stack, bare):
                    rate = await _rate(contender, count, f"{number}-{count}")
                    if number:  # the first round warms up
                        rates.setdefault((contender.name, count), []).append(rate)
    finally:
        await stack.stop()
        await bare.stop()
    return rates


async def _rate(contender: Contender, count: int, label: str) -> float:
    """Tokens a second from the last stream's first token to the first one's end: while all run."""
    group = [build_short(f"{label}-{n}", max_tokens=TOKENS) for n in range(count)]
    answers = await contender.answers(group)
    begun_s = max(answer.text_times_s[0] for answer in answers)
    ended_s = min(answer.text_times_s[-1] for answer in answers)
    told = sum(begun_s < at_s <= ended_s for answer in answers for at_s in answer.text_times_s)
    tokens_per_text = sum(a.output_tokens for a in answers) / sum(len(a.text_times_s) for a in answers)
    return told * tokens_per_text / (ended_s - begun_s)


def _pin_threads(pid: int) -> None:
    for thread in _threads(pid):
        os.sched_setaffinity(thread, _ENGINE)


def _threads(pid: int) -> Sequence[int]:
    return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
