"""Two revisions of this stack beside each other, in one run: `make bench AGAINST=REV`.

Both serve the same model, each in processes of its own, the other revision's from an archive of its files. They are
asked in turns, so that whatever disturbs the machine disturbs both, and the one that begins changes with every round. A
row is the median of all rounds; it is worse only where the rounds of the two do not overlap. Packages are those of this
revision's environment for both.
"""

from __future__ import annotations

import io
import secrets
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.contenders import Contender, Stack
from tests.bench.prompts import Renderer, Request, append_turn, build_head, build_short
from tests.bench.report import Table, median, ratio
from tests.bench.stalls import longest_gap
from tests.support.processes import REPOSITORY

ROUNDS = 5
HERE = "this revision"
_COLD_TOKENS = 9_000
_TURNS = 3
_STREAMS = (1, 4, 16)
_STREAM_TOKENS = 64
_BESIDE, _BESIDE_TOKENS, _LONG_AT_S = 2, 300, 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is measured. `is_rate`: more is better."""

    name: str
    unit: str
    is_rate: bool = False


Figures = dict[Row, float]

COLD = Row(name=f"first token of {_COLD_TOKENS:,} tokens, cold", unit="ms")
NEXT = Row(name=f"next turn's first token, median of {_TURNS}", unit="ms")
GAP = Row(name=f"longest gap of {_BESIDE} streams beside a cold prompt", unit="ms")
BESIDE = Row(name=f"rate of {_BESIDE} streams meanwhile", unit="tokens/s", is_rate=True)
LONG = Row(name="the cold prompt's first token beside them", unit="ms")


@contextmanager
def files_of(revision: str) -> Iterator[Path]:
    """The files of a revision, in a folder of their own."""
    archive = subprocess.run(["git", "archive", revision], cwd=REPOSITORY, capture_output=True, check=True).stdout
    with TemporaryDirectory(prefix="mlxgw-rev-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def stacks(model: Path, other: Path, revision: str) -> list[Stack]:
    """The other revision, and this one."""
    there = Stack(model, environment={"PYTHONPATH": str(other)})
    here = Stack(model, environment={"PYTHONPATH": str(REPOSITORY)})
    there.name, here.name = revision, HERE
    return [there, here]


async def measure_against(contenders: Sequence[Contender], renderer: Renderer) -> Table:
    rounds: dict[str, list[Figures]] = {contender.name: [] for contender in contenders}
    for number in range(ROUNDS):
        label = secrets.token_hex(3)
        heads = [build_head(renderer, _COLD_TOKENS, salt=f"{name}-{label}") for name in ("alone", "beside")]
        for contender in contenders if number % 2 else reversed(contenders):
            rounds[contender.name].append(await _round(contender, heads, label))
    return compared(rounds)


def compared(rounds: dict[str, list[Figures]]) -> Table:
    """The first contender's rounds beside the second's."""
    (base, theirs), (name, ours) = rounds.items()
    table = Table(title=f"{name} against {base}, median of {len(ours)} rounds in turns", head=("", base, name, "", ""))
    for row in ours[0]:
        before, after = [figures[row] for figures in theirs], [figures[row] for figures in ours]
        table.add(
            f"{row.name}, {row.unit}", _spread(before), _spread(after), ratio(median(after), median(before)),
            verdict(before, after, is_rate=row.is_rate),
        )  # fmt: skip
    return table


def verdict(before: Sequence[float], after: Sequence[float], *, is_rate: bool) -> str:
    """Whether the rounds of one lie beyond all of the other's."""
    if min(after) > max(before):
        return "better" if is_rate else "WORSE"
    if max(after) < min(before):
        return "WORSE" if is_rate else "better"
    return "same"


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


async def _round(contender: Contender, heads: Sequence[Request], label: str) -> Figures:
    alone, beside = heads
    return {
        **await _turns(contender, alone),
        **await _streams(contender, label),
        **await _beside(contender, beside, label),
    }


async def _turns(contender: Contender, request: Request) -> Figures:
    first_s = []
    for turn in range(_TURNS + 1):
        (answer,) = await contender.answers([request])
        first_s.append(answer.first_s)
        request = append_turn(request, answer.text, turn + 1)
    return {COLD: 1000 * first_s[0], NEXT: 1000 * median(first_s[1:])}


async def _streams(contender: Contender, label: str) -> Figures:
    rates = {}
    for count in _STREAMS:
        group = [build_short(f"{label}-{count}-{n}", max_tokens=_STREAM_TOKENS) for n in range(count)]
        answers = await contender.answers(group)
        row = Row(name=f"{count} stream{'s' if count > 1 else ''}", unit="tokens/s", is_rate=True)
        rates[row] = count * _STREAM_TOKENS / max(answer.total_s for answer in answers)
    return rates


async def _beside(contender: Contender, head: Request, label: str) -> Figures:
    streams = [build_short(f"{label}-beside-{n}", max_tokens=_BESIDE_TOKENS) for n in range(_BESIDE)]
    long = replace(head, max_tokens=4, conversation="", at_s=_LONG_AT_S)
    *running, answer = await contender.answers([*streams, long])
    until_s = _LONG_AT_S + answer.first_s
    told = sum(_LONG_AT_S <= at_s <= until_s for each in running for at_s in each.text_times_s)
    return {
        GAP: 1000 * max(longest_gap(each, _LONG_AT_S, until_s) for each in running),
        BESIDE: told / answer.first_s,
        LONG: 1000 * answer.first_s,
    }
