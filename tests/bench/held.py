"""How long a stream's tokens are held back by the chunk of somebody else's prompt that is computed in the same step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from shared.request import SamplingParams
from tests.bench.report import Table, median, seconds
from tests.models.random_checkpoint import build_checkpoint, standard_library_text
from tests.support.mlx_engine import Driver, message, request
from worker.engines.base import Output

STREAMS = 4
PROMPT_CHARACTERS = 24_000


class TimedDriver(Driver):
    """Notes when the tokens of a step were there, when they were told, and whether a chunk followed them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.held_s: list[float] = []
        self._known_s = self._told_s = 0.0
        decoder, prefiller = self.engine._decoder, self.engine._prefiller
        decode, advance = decoder.step, prefiller.advance

        def timed_decode() -> object:
            self._told_s = 0.0
            tokens = decode()
            self._known_s = time.perf_counter()
            return tokens

        def noted_advance(*arguments: object, **options: object) -> object:
            self._has_chunk = True
            return advance(*arguments, **options)  # type: ignore[arg-type]

        decoder.step = timed_decode  # type: ignore[method-assign,assignment]
        prefiller.advance = noted_advance  # type: ignore[method-assign,assignment]

    def emit(self, outputs: Sequence[Output]) -> None:
        if not self._told_s and any(output.token_ids for output in outputs):
            self._told_s = time.perf_counter()
        super().emit(outputs)

    def timed_step(self) -> None:
        self._has_chunk = False
        self.step()
        if self._has_chunk and self._told_s:
            self.held_s.append(self._told_s - self._known_s)


def measure_held(folder: Path, params: float) -> Table:
    """On the bare engine in this process, while a cold prompt is prefilled. `folder` takes the model."""
    driver = TimedDriver(build_checkpoint("full", folder / "held", params=params))
    sampling = SamplingParams(max_tokens=100_000, temperature=0.0, logit_bias={2: -1000.0})
    for number in range(STREAMS):
        driver.submit(request(f"s{number}", [message("user", f"stream {number}")], sampling=sampling))
    driver.step_until(lambda: all(len(driver.tokens[f"s{n}"]) > 20 for n in range(STREAMS)))
    driver.submit(request("long", [message("user", standard_library_text(PROMPT_CHARACTERS))]))
    while not driver.tokens["long"]:
        driver.timed_step()
    table = Table(
        title=f"A token of {STREAMS} running streams held back by the prefill chunk of its step",
        head=("", "median", "worst", "chunks"),
    )
    table.add("stack's engine", seconds(median(driver.held_s)), seconds(max(driver.held_s)), str(len(driver.held_s)))
    return table
