"""What it costs to tell: `python -m tests.bench.telling [ROUNDS]`.

Two stacks on one model answer 16 streams in turns: one as it comes, scraped each ten seconds (gateway and hosts), with
its lines in the log and a trace of each request; the other with neither log nor traces nor a scrape. The rates are of
all streams together, from the moment they are sent until the last token has come; beside them stands what a round takes
of the processor, in all processes of the stack, which a busy machine does not change.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.bench.contenders import Stack
from tests.bench.prompts import build_short
from tests.bench.report import Table, median
from tests.models.random_checkpoint import build_checkpoint

ROUNDS = 12
STREAMS = 16
TOKENS = 192
_SCRAPE_S = 10.0
_SILENT = {"MLX_GATEWAY_LOG_LEVEL": "error", "MLX_GATEWAY_TRACE_BYTES": "0"}


async def measure_telling(folder: Path, rounds: int) -> Table:
    model = build_checkpoint("full", folder / "model", params=1.4e6)
    telling, silent = Stack(model), Stack(model, environment=_SILENT)
    rates: dict[str, list[float]] = {"telling": [], "silent": []}
    used: dict[str, list[float]] = {"telling": [], "silent": []}
    try:
        for each in (telling, silent):
            await each.start()
            await each.answers([build_short(f"warm-{n}", max_tokens=8) for n in range(2)])
        with scraped(telling.port):
            for number in range(rounds):
                pairs = [("telling", telling), ("silent", silent)]
                for name, stack in pairs if number % 2 else pairs[::-1]:
                    before_s = stack.cpu_s()
                    rates[name].append(await _rate(stack, f"{number}-{name}"))
                    used[name].append(stack.cpu_s() - before_s)
    finally:
        for each in (telling, silent):
            await each.stop()
    return _table(rates, used)


async def _rate(stack: Stack, name: str) -> float:
    answers = await stack.answers([build_short(f"{name}-{n}", max_tokens=TOKENS) for n in range(STREAMS)])
    return sum(answer.output_tokens for answer in answers) / max(answer.total_s for answer in answers)


@contextlib.contextmanager
def scraped(port: int) -> Iterator[None]:
    """As Prometheus would."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(_SCRAPE_S):
            for path in ("/metrics", "/metrics/hosts"):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("GET", path)
                connection.getresponse().read()
                connection.close()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _table(rates: dict[str, list[float]], used: dict[str, list[float]]) -> Table:
    table = Table(
        title=f"{STREAMS} streams of {TOKENS} tokens, median of {len(rates['silent'])} rounds",
        head=("", "tokens/s", "of silent", "cpu s", "of silent"),
    )
    for name, text in (
        ("silent", "without log, traces and scrapes"),
        ("telling", "with all of it, scraped each ten seconds"),
    ):
        rate, cpu = _ratios(rates, name), _ratios(used, name)
        table.add(text, f"{median(rates[name]):.0f}", rate, f"{median(used[name]):.2f}", cpu)
    return table


def _ratios(values: dict[str, list[float]], name: str) -> str:
    """The median of those of each pair of rounds, and their range."""
    found = [one / other for one, other in zip(values[name], values["silent"], strict=True)]
    return f"{median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(prefix="mlxgw-bench-") as folder:
        print(asyncio.run(measure_telling(Path(folder), rounds)).render())


if __name__ == "__main__":
    main()
