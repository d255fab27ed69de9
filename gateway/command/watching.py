"""`mlx-gateway status --watch`: a table that follows what happens, drawn over itself.

A few lines of escape codes do it: a library for tables would be the second largest part of an installation without MLX.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from shared.registry import Fleet, HostRecord, WorkerLease

_EVERY_S: Final = 1.0
_HOME_AND_CLEAR: Final = "\x1b[H\x1b[J"
_BAR: Final = 10
_GB: Final = 1e9


def watch_fleet(read: Callable[[], Fleet], out: TextIO, wait: Callable[[float], None] = time.sleep) -> None:
    """Until interrupted. Where nobody sees a terminal, each table follows the last."""
    while True:
        lines = list(fleet_table(read()))
        out.write((_HOME_AND_CLEAR if out.isatty() else "") + "\n".join(lines) + "\n")
        out.flush()
        wait(_EVERY_S)


def fleet_table(fleet: Fleet) -> Iterator[str]:
    for host in fleet.hosts:
        yield _host(host)
        for model in host.models:
            workers = [w for w in fleet.workers if w.host == host.host and w.model == model.id]
            detail = f"{model.load_done:4.0%} {_bar(model.load_done)}" if model.state == "loading" else model.reason
            yield f"  {model.id:28} {model.state:10} {detail}".rstrip()
            for worker in workers:
                yield from _worker(worker)
    for stranger in fleet.strangers:
        yield f"{stranger.kind} {stranger.name} gets no work: {stranger.reason}"
    if not fleet.hosts:
        yield "no hosts are running"


def _host(host: HostRecord) -> str:
    total, free = host.figures.get("memory_total_bytes"), host.figures.get("memory_available_bytes")
    memory = "" if total is None or free is None else f"  memory {(total - free) / _GB:.1f} of {total / _GB:.1f} GB"
    pressure = host.figures.get("memory_pressure", 1.0)
    return f"{host.host}{memory}{'  PRESSURE' if pressure > 1 else ''}"


def _worker(worker: WorkerLease) -> Iterator[str]:
    metrics = worker.metrics
    running, waiting = int(metrics.get("running", 0)), int(metrics.get("waiting", 0))
    is_busy = running or waiting  # rates of a worker that does nothing are those of the past
    yield (
        f"    {worker.state:8} {worker.in_flight:>2}/{worker.capacity:<2} requests  "
        f"{running} writing, {waiting} reading  "
        f"{worker.decode_tokens_per_s if running else 0:6.0f} tokens/s out  "
        f"{worker.prefill_tokens_per_s if waiting else 0:7.0f} tokens/s in  "
        f"{worker.waiting_tokens if is_busy else 0:>7} tokens to read  cache {worker.cache_bytes / _GB:.1f} GB"
    )


def _bar(share: float) -> str:
    done = round(_BAR * share)
    return f"[{'#' * done}{'.' * (_BAR - done)}]"
