"""What a next turn copies as its conversation grows: memory beyond what it held before, and seconds."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx

from shared.messages import Message
from tests.bench.report import Table, median, seconds
from tests.models.random_checkpoint import PRESETS, standard_library_text, write_random_checkpoint
from tests.support.mlx_engine import Driver, message, request
from worker.engines.mlx.decode import decoder
from worker.engines.mlx.decode.grouping import GroupShape
from worker.engines.mlx.kv.classes import leaves
from worker.engines.mlx.prefill import prefiller

LENGTHS = (15_000, 30_000, 60_000)
TURNS = 5
_SHORT = 200
_ANSWER_TOKENS = 32
_CACHE_BYTES = 4 << 30
_WIDE = {
    **{"num_hidden_layers": 6, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128},
    "max_position_embeddings": 131072,
}


def measure_hot_turns(folder: Path, lengths: Sequence[int] = LENGTHS) -> Table:
    """On the engine in this process, with a model made in `folder` whose cache outweighs what its passes need. The
    history's keys and values are made up instead of computed; next turns are computed as ever."""
    config = PRESETS["full"].config(128)
    write_random_checkpoint(folder, {**config, **_WIDE})
    table = Table(
        title=f"A next turn of a conversation that was the last to run: median of {TURNS}, and the worst",
        head=("tokens", "cache", "peak beyond it", "worst", "share", "first token", "turn"),
    )
    for tokens in lengths:
        driver = Driver(folder, cache_bytes=_CACHE_BYTES, options={"drafting": "off"})
        messages = [message("system", _text(driver, tokens)), message("user", "begin")]
        with _without_computing():
            driver.run(request("cold", messages, max_tokens=_ANSWER_TOKENS))
        turns = [_measure(driver, messages, turn) for turn in range(TURNS)]
        kept = driver.engine.store.nbytes
        peak = median([extra for extra, _, _ in turns])
        table.add(
            f"{tokens:,}",
            _megabytes(kept),
            _megabytes(peak),
            _megabytes(max(extra for extra, _, _ in turns)),
            f"{peak / kept:.1%}",
            seconds(median([first_s for _, first_s, _ in turns])),
            seconds(median([whole_s for _, _, whole_s in turns])),
        )
        driver.engine.unload()
    return table


def measure_joining(folder: Path) -> Table:
    """A short row that comes while a long one decodes, and goes before it. Long rows decode alone; what it would cost
    to put both into one group is shown beside it."""
    config = PRESETS["full"].config(128)
    write_random_checkpoint(folder, {**config, **_WIDE})
    table = Table(
        title=f"A row of {_SHORT} tokens joins one of {LENGTHS[-1]:,}, and leaves it",
        head=("", "groups", "cache", "peak at joining", "peak at leaving", "joining", "leaving"),
    )
    for name, is_forced in (("as it is", False), ("put into one group", True)):
        driver = Driver(folder, cache_bytes=_CACHE_BYTES, options={"drafting": "off"})
        with mock.patch.object(decoder, "choose_group", _the_first) if is_forced else nullcontext():
            table.add(name, *_join_and_leave(driver))
        driver.engine.unload()
    return table


def _the_first(groups: Sequence[GroupShape], row: GroupShape, **_: Any) -> int | None:
    return 0 if groups else None


def _join_and_leave(driver: Driver) -> tuple[str, ...]:
    with _without_computing():
        messages = [message("system", _text(driver, LENGTHS[-1])), message("user", "begin")]
        driver.submit(request("long", messages, max_tokens=1000))
        driver.step_until(lambda: len(driver.tokens["long"]) > 2)
    kept = mx.get_active_memory()
    driver.submit(request("short", [message("user", _text(driver, _SHORT))], max_tokens=4))
    joining, joining_s = _peak(lambda: driver.step_until(lambda: len(driver.tokens["short"]) > 1))
    groups = driver.engine.stats().metrics["decode_groups"]
    leaving, leaving_s = _peak(lambda: driver.step_until(lambda: "short" not in driver.engine._sequences))
    driver.engine.cancel("long")
    sizes = (_megabytes(nbytes) for nbytes in (kept, joining, leaving))
    return f"{groups:.0f}", *sizes, seconds(joining_s), seconds(leaving_s)


def _peak(act: Callable[[], None]) -> tuple[int, float]:
    """The most bytes in use beyond those before, and the seconds."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    began_s = time.perf_counter()
    act()
    return mx.get_peak_memory() - before, time.perf_counter() - began_s


def _measure(driver: Driver, messages: list[Message], turn: int) -> tuple[int, float, float]:
    """One next turn: the most bytes in use beyond those before it, and the seconds to its first and last token."""
    answer = driver.events[list(driver.events)[-1]]
    text = "".join(event.text for event in answer if type(event).__name__ == "TextDelta")  # type: ignore[union-attr]
    messages += [message("assistant", text), message("user", f"go on {turn}")]
    key = f"turn{turn}"
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    began_s = time.perf_counter()
    driver.submit(request(key, messages, max_tokens=_ANSWER_TOKENS))
    driver.step_until(lambda: bool(driver.tokens[key]))
    first_s = time.perf_counter() - began_s
    driver.step_until(lambda: not driver.engine.has_work())
    return mx.get_peak_memory() - before, first_s, time.perf_counter() - began_s


def _text(driver: Driver, tokens: int) -> str:
    text = standard_library_text(4 * tokens)
    count = driver.engine.prepare(request("count", [message("system", text)])).prompt_tokens
    return text[: len(text) * tokens // count]


@contextmanager
def _without_computing() -> Iterator[None]:
    """Prompts' chunks fill the cache with made-up numbers."""

    def fill(model: Any, cache: list[Any], tokens: Sequence[int], embeddings: Any = None) -> None:
        flat = leaves(cache)
        if flat[0].keys is None:
            computed(model, cache, tokens, embeddings)
            return
        for leaf in flat:
            shape = (1, leaf.keys.shape[1], len(tokens), leaf.keys.shape[3])
            leaf.update_and_fetch(mx.random.normal(shape).astype(leaf.keys.dtype), mx.zeros(shape, leaf.values.dtype))
        mx.eval([leaf.state for leaf in flat])

    computed = prefiller.prefill
    with mock.patch.object(prefiller, "prefill", fill):
        yield


def _megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:.1f} MB"
