"""Where agents' requests go on several Macs, by our rule and by others: `make bench-placement`.

Gateway, Redis, RQ and workers are real processes; the Macs are echo engines of set speed with a prefix cache. All goes
through one gateway, so that a rule which remembers sees everything. What it does not show: that real Macs are as fast
as said, and how their decoding slows when several requests share it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import orjson

from gateway.app import create_app
from gateway.dialects.anthropic.dialect import AnthropicDialect
from gateway.dispatch.lookups import lookups_of
from gateway.intake.chain import build_chain
from gateway.intake.reading import Asked, read_request
from gateway.intake.tags import Tagger
from gateway.parts import Parts
from shared.config import Settings
from shared.cost import PrefillCost
from shared.keys import host_of
from shared.redis_server import RedisServer
from shared.request import PackedRequest
from shared.work import Generate
from tests.bench.agents import SPEED, TOKENS_PER_WORD, Agents, Traffic, Turn, words
from tests.bench.policies import RULES, VARIANTS
from tests.bench.report import Table, percentile
from tests.support.fleet import lease
from tests.support.names import NAMES
from tests.support.processes import Running, wait_until
from tests.support.sealed import SECRET, sealed_lease
from tests.support.served import Served, served

MODEL = "agents"
SLOW_AT_TOKENS = 60_000


@dataclass(frozen=True, slots=True)
class Mac:
    """Tokens a second of prefill at the start of a prompt and of one stream's decoding, and tokens that it keeps."""

    name: str
    prefill: float
    decode: float
    cache: int

    def options(self) -> dict[str, object]:
        """Of an echo engine whose words stand for several tokens, in faster time."""
        rate = self.prefill * SPEED / TOKENS_PER_WORD
        return {
            "prefill_tokens_per_s": rate,
            "slow_at_tokens": SLOW_AT_TOKENS // TOKENS_PER_WORD,
            "step_ms": 1000 * TOKENS_PER_WORD / self.decode / SPEED,
            "cache_tokens": self.cache // TOKENS_PER_WORD,
            "disk_tokens": 4 * self.cache // TOKENS_PER_WORD,
            "disk_tokens_per_s": 20_000 * SPEED / TOKENS_PER_WORD,
            "MLX_GATEWAY_CAPACITY": 4,
        }

    def alone_s(self, turn: Turn) -> float:
        """Until the first token of such a turn where nothing else is done and what was cached lies in memory."""
        token_s = 1 / self.prefill
        return PrefillCost(token_s=token_s, depth_s=token_s / SLOW_AT_TOKENS).predict_s(turn.cached, turn.tokens)


_STUDIO = Mac("studio", 1600, 60, 900_000)
_MAX = Mac("max", 1200, 50, 500_000)
_PRO = Mac("pro", 600, 35, 300_000)
_MINI = Mac("mini", 350, 25, 200_000)
FLEETS = {
    2: (_STUDIO, _PRO),
    4: (_STUDIO, _MAX, _PRO, _MINI),
    8: (_STUDIO, _STUDIO, _MAX, _MAX, _PRO, _PRO, _MINI, _MINI),
}
# Sessions for each Mac: each has one or two, or more than they can serve at leisure.
LOADS = {"light": 1.0, "busy": 2.5}


@contextmanager
def ruled(redis_url: str, folder: Path, rule: str) -> Iterator[Served]:
    """A gateway that places by the rule."""
    with served(redis_url, folder, module=("tests.bench.policies", rule), max_queue=512) as gateway:
        yield gateway


async def measure(
    rule: str, macs: Sequence[Mac], *, load: float, seconds: float, turns: range | None = None
) -> tuple[Traffic, list[float]]:
    """What clients saw, and how far predictions were off, in seconds of the simulated time: in `seconds` of the wall
    clock, or of these turns of each session, which take no longer than ten times that."""
    with tempfile.TemporaryDirectory() as name, RedisServer() as server, ExitStack() as stack:
        folder = Path(name)
        gateway = stack.enter_context(ruled(server.url, folder, rule))
        started = [
            stack.enter_context(
                gateway.worker(MODEL, host=f"{mac.name}{number}", module="tests.bench.faster", **mac.options())
            )
            for number, mac in enumerate(macs)
        ]
        _wait_for(gateway, started)
        agents = Agents(gateway.port, MODEL, sessions=round(load * len(macs)), seed=7)
        if turns is None:
            traffic = await agents.run(warm_s=seconds / 3, measured_s=seconds)
        else:
            traffic = await agents.run_turns(turns, limit_s=10 * seconds)
        return traffic, _errors(gateway)


def _wait_for(gateway: Served, workers: Sequence[Running]) -> None:
    wait_until(lambda: len(gateway.get("/status").json["workers"]) == len(workers), "all are seen")


def _errors(gateway: Served) -> list[float]:
    files = sorted(gateway.folder.glob("state/logs/trace-*.jsonl"))
    traces = [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]
    pairs = [(trace["seconds"].get("first_token"), trace.get("predicted", {}).get("first_token")) for trace in traces]
    return [SPEED * (came - predicted) for came, predicted in pairs if came is not None and predicted is not None]


def row(rule: str, macs: Sequence[Mac], traffic: Traffic, errors: Sequence[float]) -> list[str]:
    turns = traffic.turns
    first = [turn.first_s for turn in turns] or [0.0]
    follow, moved = _moves(turns)
    share = sum(turn.cached for turn in turns) / max(1, sum(turn.tokens for turn in turns))
    error = statistics.median(map(abs, errors)) if errors else None
    by_host = {f"{mac.name}{number}": mac for number, mac in enumerate(macs)}
    alone = [by_host[host_of(turn.worker)].alone_s(turn) for turn in turns if turn.worker] or [0.0]
    return [
        *(rule, str(len(turns)), f"{statistics.mean(first):.1f}", f"{percentile(first, 0.95):.1f}"),
        f"{statistics.mean(alone):.1f}",
        *(f"{share:.2f}", f"{100 * moved / max(1, follow):.1f}", "-" if error is None else f"{error:.2f}"),
        *(f"{traffic.took_s:.0f}", f"{percentile(traffic.late_s or [0.0], 0.95):.2f}", str(len(traffic.errors))),
    ]


def _moves(turns: Sequence[Turn]) -> tuple[int, int]:
    """(turns that follow another of their conversation, of those answered by another worker)."""
    by_conversation: defaultdict[str, list[str]] = defaultdict(list)
    for turn in turns:
        by_conversation[turn.conversation].append(turn.worker)
    pairs = [pair for workers in by_conversation.values() for pair in pairwise(workers)]
    return len(pairs), sum(before != after for before, after in pairs)


COLUMNS = (
    *("rule", "turns", "mean s", "p95 s", "alone s", "cached", "moves/100", "error s"),
    *("took s", "late s", "failed"),
)


def measure_fleet(size: int, load: str, seconds: float, rules: Sequence[str], *, turns: range | None = None) -> Table:
    macs = FLEETS[size]
    which = "" if turns is None else f", turns {turns.start + 1} to {turns.stop} of each session"
    table = Table(f"first token on {size} Macs ({', '.join(mac.name for mac in macs)}), {load}{which}", COLUMNS)
    for rule in rules:
        seen = asyncio.run(measure(rule, macs, load=LOADS[load], seconds=seconds, turns=turns))
        table.add(*row(rule, macs, *seen))
    if turns is None:
        table.notes.append("turns: who is served sooner asks more, so that the means are of other turns (--turns)")
    table.notes.append("late: how much longer than asked for the bench slept (p95); where it is not small beside the")
    table.notes.append("mean, the machine did not keep pace, and the table says more of it than of the rules")
    table.notes.append("alone: of the mean, what computing takes where nothing else is done; the rest is waiting")
    table.notes.append(f"seconds and tokens as they would be: time runs {SPEED:g} times faster here")
    return table


# --- what a decision costs ------------------------------------------------------------------------------------------


def measure_cost(*, workers: int = 8, rounds: int = 60) -> Table:
    """For a body of 400 KB in 300 messages, on a Redis where each worker knows 30,000 tags."""
    with tempfile.TemporaryDirectory() as name, RedisServer() as server:
        settings = Settings(redis_url=server.url, state_dir=Path(name), secret=SECRET)
        return asyncio.run(_cost(settings, workers, rounds))


async def _cost(settings: Settings, workers: int, rounds: int) -> Table:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        parts = app.parts
        names = [f"h{number}.{MODEL}.e1" for number in range(workers)]
        await _fill(parts, names)
        took: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(rounds):
            await _once(parts, number, took)
        whole = [sum(each) for each in zip(*took.values(), strict=True)]
        table = Table(f"what a decision adds, 400 KB, {workers} workers", ("", "best ms", "p50 ms", "p95 ms"))
        for step, times in (*took.items(), ("all", whole)):
            figures = (min(times), statistics.median(times), percentile(times, 0.95))
            table.add(step, *(f"{1000 * figure:.2f}" for figure in figures))
        table.notes.append("on a machine that does other work, the best is what the steps take")
        return table


async def _fill(parts: Parts, names: Sequence[str]) -> None:
    broker = parts.jobs._redis
    for name in names:
        worker = lease(MODEL, worker=name, service_s=1.0, prefill_token_s=0.001, tokens_per_byte=0.25)
        await broker.set(NAMES.lease(name), sealed_lease(worker))
        await broker.sadd(NAMES.workers, name)
        for at in range(0, 30_000, 1000):
            tags: dict[bytes, float] = {os.urandom(16): float(at + n) for n in range(1000)}
            await broker.zadd(NAMES.resident(name), tags)
    await parts.fleet.refresh()


async def _once(parts: Parts, number: int, took: dict[str, list[float]]) -> None:
    """The steps that were not there before: the chain, tags, the look and the decision."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": words(f"r{number}m{n}x", 1300)} for n in range(299)]
    body = {"model": MODEL, "max_tokens": 10, "system": words("head", 3000), "messages": messages}
    asked = Asked(headers={"x-claude-code-session-id": f"s{number % 7}"}, request_id=f"req_{number}")
    parsed = read_request(AnthropicDialect(), asked, orjson.dumps(body), packing=True)
    request = parsed.request
    assert isinstance(request, PackedRequest)
    whole = read_request(AnthropicDialect(), asked, orjson.dumps(body)).request
    began = time.perf_counter()
    chain = build_chain(whole, request.packed)
    chained = time.perf_counter()
    request = replace(request, packed=replace(request.packed, chain=chain))
    tagged = Tagger(b"k" * 32).tagged(request)
    named = time.perf_counter()
    look = await parts.dispatcher._outlook.look(tagged)
    looked = time.perf_counter()
    parts.dispatcher._decide(Generate(request=tagged), look=look)
    decided = time.perf_counter()
    assert lookups_of(tagged)
    steps = {"chain": chained - began, "tags": named - chained, "look": looked - named, "place": decided - looked}
    for step, seconds in steps.items():
        took[step].append(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.placement", description=__doc__)
    parser.add_argument("--macs", type=int, nargs="*", default=list(FLEETS), choices=list(FLEETS))
    parser.add_argument("--loads", nargs="*", default=list(LOADS), choices=list(LOADS))
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=[*RULES, *VARIANTS])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each, on the wall clock")
    parser.add_argument(
        "--turns", type=int, help="as many of each session by every rule, the same ones; the first fifth is not counted"
    )
    parser.add_argument("--no-cost", action="store_true", help="leave out what a decision costs")
    arguments = parser.parse_args()
    if not arguments.no_cost:
        print(measure_cost().render() + "\n", flush=True)
    turns = range(arguments.turns // 5, arguments.turns) if arguments.turns else None
    for size in arguments.macs:
        for load in arguments.loads:
            table = measure_fleet(size, load, arguments.seconds, arguments.rules, turns=turns)
            print(table.render() + "\n", flush=True)


if __name__ == "__main__":
    main()
