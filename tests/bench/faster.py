"""Parts of the product in faster time: what they are patient for is as much shorter as their Macs are faster.

`python -m tests.bench.faster` runs a worker so.
"""

from __future__ import annotations

import sys
from types import ModuleType

import worker.__main__
from gateway.dispatch import moves, prospects
from tests.bench.agents import SPEED
from worker.rq import gate
from worker.serving import drift, lease

_OF_GATEWAYS = ((prospects, "_NEAR_S _GAIN_S _LEAST_S"), (moves, "EVERY_S _PATIENCE_S _GAIN_S"))
_OF_WORKERS = ((gate, "AHEAD_S"), (drift, "_LEAST_S"), (lease, "_REST_S"))


def hasten(*parts: tuple[ModuleType, str]) -> None:
    """Divide the modules' constants. What takes the machine its own time (beats, leases) stays as it is."""
    for module, names in parts:
        for name in names.split():
            setattr(module, name, getattr(module, name) / SPEED)


def hasten_gateway() -> None:
    hasten(*_OF_GATEWAYS)


if __name__ == "__main__":
    hasten(*_OF_WORKERS)
    sys.exit(worker.__main__.main())
