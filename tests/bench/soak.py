"""Thousands of short requests on one shared head: whether what is kept, and what is not, stays as it is."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from shared.request import GenerateRequest
from tests.bench.report import Table
from tests.models.architectures import build_architecture
from tests.models.random_checkpoint import build_checkpoint, standard_library_text
from tests.support.mlx_engine import Driver, message, request

TOGETHER = 8
MARKS = 5
_CACHE_BYTES = 4_000_000
_MAX_ARRAYS = 400
_HEAD = message("system", standard_library_text(3000))
_SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def _free(number: int) -> GenerateRequest:
    return request(str(number), [_HEAD, message("user", f"question {number}")], max_tokens=6)


def _one_constrained(number: int) -> GenerateRequest:
    item = _free(number)
    return item if number % TOGETHER else replace(item, response_schema=_SCHEMA)


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[int], GenerateRequest]]] = {
    "full attention": (lambda folder: build_checkpoint("full", folder, params=2e5), _free),
    "layers without positions (SmolLM3)": (lambda folder: build_architecture("smollm3", folder), _free),
    "states and no positions (Nemotron H)": (lambda folder: build_architecture("nemotron_h", folder), _free),
    "one constrained row beside seven": (lambda folder: build_checkpoint("full", folder, params=2e5), _one_constrained),
}


def measure_soak(folder: Path, requests: int) -> Iterator[Table]:
    """On the engine in this process, `TOGETHER` at a time; models are made in `folder`. Budgets are small, so that they
    are reached early and whatever grows beyond them shows."""
    for number, (name, (build, ask)) in enumerate(KINDS.items()):
        yield _soak(name, build(folder / f"soak{number}"), ask, requests)


def _soak(name: str, model: Path, ask: Callable[[int], GenerateRequest], requests: int) -> Table:
    driver = Driver(model, cache_bytes=_CACHE_BYTES)
    driver.engine.store.max_arrays = _MAX_ARRAYS
    table = Table(
        title=f"{requests:,} short requests on one shared head, {TOGETHER} at a time: {name}",
        head=("requests", "buffers kept", "bytes kept", "bytes beside", "process", "files open", "a request"),
    )
    began_s, done = time.perf_counter(), 0
    for batch in _batched(requests):
        driver.run(*(ask(number) for number in batch))
        for key in map(str, batch):
            del driver.events[key], driver.tokens[key], driver._orders[key]
        before, done = done, done + len(batch)
        if done * MARKS // requests > before * MARKS // requests:
            _mark(table, driver, done, (time.perf_counter() - began_s) / done)
    driver.engine.unload()
    return table


def _batched(requests: int) -> Iterator[range]:
    return (range(first, min(first + TOGETHER, requests)) for first in range(0, requests, TOGETHER))


def _mark(table: Table, driver: Driver, done: int, seconds_each: float) -> None:
    gc.collect()
    mx.clear_cache()
    store = driver.engine.store
    table.add(
        f"{done:,}",
        f"{store.arrays:,}",
        f"{store.nbytes:,}",
        f"{mx.get_active_memory() - store.nbytes:,}",
        f"{_resident_bytes() >> 20} MB",
        str(len(os.listdir("/dev/fd"))),
        f"{seconds_each * 1000:.1f} ms",
    )


def _resident_bytes() -> int:
    """0 where the system does not tell it in this way."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
