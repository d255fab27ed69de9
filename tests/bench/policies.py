"""A gateway that places by another rule: `python -m tests.bench.policies RULE` runs it, to compare.

Everything else is the product's: HTTP, Redis, RQ, lists, bells, claims. A rule sees the same lists as `place` does;
work that waits does not move but for a worker that is gone.

    ours          as it is shipped
    shared-queue  one queue for all: whoever has a place free takes the next, as RQ alone does it
    least-loaded  where the fewest requests are
    round-robin   one after the other
    sticky        a session stays where its first request was put, where the fewest requests were

and, when asked for by name, ours with other thresholds:

    ours-eager    moves for a third and half a second, in any turn
    ours-still    leaves its home only with it
    ours-strict   the soonest, however little sooner
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import gateway.__main__
from gateway.dispatch import dispatcher, moves, prospects
from gateway.dispatch.facts import Facts, Pending, Placed, Refused
from gateway.dispatch.place import place
from gateway.dispatch.waits import busy, waiting
from shared.registry import Fleet, WorkerLease
from tests.bench.agents import SPEED
from tests.bench.faster import hasten_gateway

Rule = Callable[[Sequence[WorkerLease], Facts], WorkerLease | None]
_PULL_EVERY_S = 0.005


def least_loaded(workers: Sequence[WorkerLease], _facts: Facts) -> WorkerLease | None:
    return min(workers, key=lambda worker: (busy(worker), worker.worker))


def shared_queue(workers: Sequence[WorkerLease], facts: Facts) -> WorkerLease | None:
    free = [worker for worker in workers if sum(worker.held) + sum(waiting(worker)) < worker.capacity]
    return least_loaded(free, facts) if free else None


def round_robin() -> Rule:
    turns = itertools.count()
    return lambda workers, _: sorted(workers, key=lambda worker: worker.worker)[next(turns) % len(workers)]


def sticky() -> Rule:
    homes: dict[str, str] = {}

    def rule(workers: Sequence[WorkerLease], facts: Facts) -> WorkerLease | None:
        home = next((worker for worker in workers if worker.worker == homes.get(facts.flow)), None)
        chosen = home or least_loaded(workers, facts)
        if chosen is not None:
            homes[facts.flow] = chosen.worker
        return chosen

    return rule


RULES: dict[str, Callable[[], Rule] | None] = {
    "ours": None,
    "shared-queue": lambda: shared_queue,
    "least-loaded": lambda: least_loaded,
    "round-robin": round_robin,
    "sticky": sticky,
}
_EAGER = {"_TIMES": 1.5, "_GAIN_S": 0.5 / SPEED, "_TURNS": 1}
VARIANTS: dict[str, dict[str, float]] = {
    "ours-eager": _EAGER,
    "ours-still": {"_TIMES": 1e9},
    "ours-strict": {"_NEAR_S": 0.0},
}


def by(rule: Rule) -> Callable[[Fleet, Pending, Facts], Placed | Refused]:
    """A `place` that decides by the rule."""

    def decide(fleet: Fleet, pending: Pending, facts: Facts) -> Placed | Refused:
        workers = [worker for worker in fleet.ready_workers(facts.model) if worker.worker not in facts.avoid]
        if facts.kind.lane or not workers:
            return place(fleet, pending, facts)
        chosen = rule(workers, facts)
        if chosen is None:
            return Placed(lane=facts.priority, reason="nobody has a place free")
        return Placed(lane=facts.priority, worker=chosen.worker, reason="by the rule")

    return decide


def install(name: str) -> None:
    """Raises `KeyError`."""
    hasten_gateway()
    if name in VARIANTS:
        for constant, value in VARIANTS[name].items():
            setattr(prospects, constant, value)
            if hasattr(moves, constant):
                setattr(moves, constant, value)
        return
    build = RULES[name]
    if build is None:
        return
    dispatcher.place = by(build())
    moves._is_gain = lambda there, here: False  # type: ignore[assignment]
    if name == "shared-queue":
        moves.EVERY_S = _PULL_EVERY_S


def main() -> int:
    install(sys.argv[1])
    sys.argv = sys.argv[:1]
    return gateway.__main__.main()


if __name__ == "__main__":
    sys.exit(main())
