"""A GGUF model through this stack beside its server asked directly: what the way through us costs.

The same float32 weights, the same llama.cpp from the xllamacpp wheel with one thread and eight slots, three ways: its
own chat route, our GGUF engine over a server of its own, and our upstream engine over the first server. All are asked
the same, in an order that goes round, but for a letter at the beginning, so that none finds another's prompt cached.
What the way adds to the first token is the median of the differences of each question, of a model that reads it in a
few milliseconds: prompts of several lengths tell more of their lengths, and a slow model more of what else the machine
does. What is measured is a CPU; on a GPU a token takes less of the machine.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench.contenders import HttpContender, Stack, is_ok
from tests.bench.prompts import Request, build_short
from tests.bench.report import Table, median, ratio, seconds
from tests.bench.wire import Answer
from tests.models.gguf_checkpoint import build_gguf
from tests.models.random_checkpoint import build_checkpoint
from tests.support.processes import free_port

PARAMS = 3e7  # a token takes some milliseconds, as on a Mac
FIRST_PARAMS = 2e6  # a prompt takes less than the way to it, so that another program's time is not taken for the way's
SLOTS = 8
ROUNDS = 3
FIRSTS = 90
TOKENS = 96
_FIRST_CHARACTERS = 80  # of a prompt whose first token is timed: reading it takes little beside the way
_CONTEXT = 2048
_START_S = 60.0
_POLL_S = 0.05


class LlamaServer(HttpContender):
    """llama.cpp's server, asked directly."""

    def __init__(self, model: Path) -> None:
        super().__init__("llama.cpp directly", model.name)
        self._model = model

    async def start(self) -> None:
        self.port = free_port()
        words = ["-m", str(self._model), "--port", str(self.port), "-t", "1", "--slots", "--chat-template", "chatml"]
        words += ["-np", str(SLOTS), "-c", str(SLOTS * _CONTEXT)]
        self._launch([sys.executable, "-m", "worker.engines.gguf.wheel_server", *words])
        async with asyncio.timeout(_START_S):
            while not await asyncio.to_thread(is_ok, f"http://127.0.0.1:{self.port}/health"):
                self._check_alive()
                await asyncio.sleep(_POLL_S)


def measure_backends(folder: Path, params: float = PARAMS) -> Table:
    """`params` of the random model whose tokens a second count."""
    return asyncio.run(_measure(_build(folder / "small", FIRST_PARAMS), _build(folder / "large", params)))


def _build(folder: Path, params: float) -> Path:
    return build_gguf(build_checkpoint("full", folder, params=params), folder.with_suffix(".gguf"))


async def _measure(small: Path, large: Path) -> Table:
    """The first is what the others are compared to."""
    async with _contenders(small) as contenders:
        firsts = await _firsts(contenders)
    async with _contenders(large) as contenders:
        rates = {name: median(each) for name, each in (await _rates(contenders)).items()}
    table = Table(
        title=f"First token of {FIRSTS} short prompts; tokens a second of {SLOTS} streams, median of {ROUNDS} rounds",
        head=("", "first p50", "added p50", "tokens/s", "of direct"),
    )
    base = next(iter(firsts))
    for name, times in firsts.items():
        added = median([its - direct for its, direct in zip(times, firsts[base], strict=True)])
        rate = rates[name]
        table.add(name, seconds(median(times)), f"{1000 * added:+.1f} ms", f"{rate:.0f}", ratio(rate, rates[base]))
    return table


@asynccontextmanager
async def _contenders(model: Path) -> AsyncIterator[list[HttpContender]]:
    """All of them started and warm."""
    direct = LlamaServer(model)
    await direct.start()
    gguf = {"binary": "wheel", "slots": SLOTS, "context_tokens": _CONTEXT, "default_args": ["-t", "1"]}
    ours = Stack(model, config={"models": [{"id": "m", "source": str(model)}]}, files={"gguf_config.json": gguf})
    ours.name = "GGUF engine"
    entry = {"id": "m", "url": f"http://127.0.0.1:{direct.port}", "profile": "llama-server", "slots": SLOTS}
    remote = Stack(model, config={"models": []}, files={"remotes.json": {"remotes": [entry]}})
    remote.name = "upstream engine"
    contenders = [direct, ours, remote]
    try:
        for stack in (ours, remote):
            await stack.start()
            stack.model = "m"
        for contender in contenders:
            await contender.answers([build_short(f"warm-{n}", max_tokens=8) for n in range(SLOTS)])
        yield contenders
    finally:
        for contender in contenders:
            await contender.stop()


async def _firsts(contenders: Sequence[HttpContender]) -> dict[str, list[float]]:
    """Seconds until the first token of each question."""
    firsts: dict[str, list[float]] = {each.name: [] for each in contenders}
    for number in range(FIRSTS):
        for letter, contender in _round(contenders, number):
            (answer,) = await contender.answers([_first(letter, number)])
            firsts[contender.name].append(answer.first_s)
    return firsts


async def _rates(contenders: Sequence[HttpContender]) -> dict[str, list[float]]:
    """Tokens a second of each round."""
    rates: dict[str, list[float]] = {each.name: [] for each in contenders}
    for number in range(ROUNDS):
        for letter, contender in _round(contenders, number):
            rates[contender.name].append(_rate(await contender.answers(_streams(letter, number))))
    return rates


def _round(contenders: Sequence[HttpContender], number: int) -> list[tuple[str, HttpContender]]:
    """With a letter for each: whoever comes after another finds the machine as that left it, so the first changes."""
    named = list(zip("ABC", contenders, strict=True))
    turn = number % len(named)
    return named[turn:] + named[:turn]


def _first(letter: str, number: int) -> Request:
    return _lettered(letter, build_short(str(number), max_tokens=2), _FIRST_CHARACTERS)


def _streams(letter: str, number: int) -> list[Request]:
    return [_lettered(letter, build_short(f"{number}-{n}", max_tokens=TOKENS)) for n in range(SLOTS)]


def _lettered(letter: str, request: Request, characters: int | None = None) -> Request:
    text = f"{letter} {request.messages[0]['content'][:characters]}"
    return replace(request, messages=({"role": "user", "content": text},))


def _rate(answers: Sequence[Answer]) -> float:
    """Pieces of text a second, which are tokens but for those inside a character."""
    return sum(len(answer.text_times_s) for answer in answers) / max(answer.total_s for answer in answers)
