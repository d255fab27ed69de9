"""Where a request goes and how long it will wait there, or why it is refused: one decision, pure.

A request goes where its first token comes soonest (`prospects`), in seconds that add up how long it waits (`waits`) and
what has to be computed of its prompt. Only requests of the same class and of those before it count as ahead.

Work that is done beside the batch (a kind with a lane of its own) takes no place and milliseconds. It goes where the
fewest of its kind wait, and is refused only when too many do.

Where workers are equal, each request has an order of its own among them, so that a burst through several gateways that
see the same is not put on one list.

A request is refused for time only when even a lucky wait would be longer than it may wait: what was predicted is a
sum of random times, and some deviations below its mean still count as possible. While nothing was measured,
nothing is refused for time. Counts always hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gateway.dispatch.facts import Facts, Pending, Placed, Prospect, Refused, Sight, Wait
from gateway.dispatch.prospects import choose, prospect_on, rank_of
from gateway.dispatch.waits import free, waiting
from shared.errors import OverloadedError, UnsupportedWorkError
from shared.notes import Note
from shared.registry import Fleet, WorkerLease
from shared.request import Priority

_SHORTEST_S, _LONGEST_S = 1, 60  # Claude Code shows longer waits as an error instead of waiting
_UNSEEN = Sight(version=-1)


def place(fleet: Fleet, pending: Pending, facts: Facts) -> Placed | Refused:
    """The worker on which the request will begin soonest; an error that says when to ask again when too
    many wait, or when it could not begin in time on any, and one that does not when no worker does such work."""
    ready = [worker for worker in fleet.ready_workers(facts.model) if worker.worker not in facts.avoid]
    workers = [worker for worker in ready if facts.kind.name in worker.kinds]
    if ready and not workers:
        return Refused(UnsupportedWorkError.of(facts.kind.name, facts.model))
    return _place_beside(workers, pending, facts) if facts.kind.lane else _place_in_batch(workers, pending, facts)


def _place_in_batch(workers: Sequence[WorkerLease], pending: Pending, facts: Facts) -> Placed | Refused:
    refusal = _too_many(workers, pending, facts)
    if refusal is not None:
        return refusal
    if not workers:
        return Placed(lane=facts.priority, reason="no worker holds the model yet")
    sights = {worker.worker: pending.sights.get(worker.worker, _UNSEEN) for worker in workers}
    prospects = [
        prospect_on(worker, sights[worker.worker], facts, pending.lent) for worker in _with_context(workers, facts)
    ]
    best, reason = choose(prospects, sights, facts)
    if best.wait is not None and best.wait.least_s > facts.may_wait_s:
        return _too_long(facts, best.wait)
    return Placed(
        lane=facts.priority,
        worker=best.worker,
        wait_s=None if best.wait is None else best.wait.expected_s,
        reason=reason,
        seen=sights[best.worker].version,
        prospect=best,
        others=tuple(
            sorted((each for each in prospects if each is not best), key=lambda each: (each.first_s, each.worker))
        ),
        note=_note(best, facts),
        own_model=_own_id(workers, best.worker),
    )


def _own_id(workers: Sequence[WorkerLease], name: str) -> str:
    return next(worker.own_id for worker in workers if worker.worker == name)


def _with_context(workers: Sequence[WorkerLease], facts: Facts) -> Sequence[WorkerLease]:
    """Those whose context the prompt fits into, as far as can be told; else the ones with the largest: the client hears
    from them how long its prompt is."""
    largest = max(worker.context_tokens for worker in workers)
    estimate = 0.8 * facts.text_bytes * max((worker.tokens_per_byte for worker in workers), default=0.0)
    fitting = [worker for worker in workers if worker.context_tokens > estimate or not worker.context_tokens]
    return fitting or [worker for worker in workers if worker.context_tokens == largest]


def _note(best: Prospect, facts: Facts) -> Note:
    return Note(lane=facts.priority, prefill_s=best.raw_own_s, score=best.score, flow=facts.flow)


def _place_beside(workers: Sequence[WorkerLease], pending: Pending, facts: Facts) -> Placed | Refused:
    lane = facts.kind.lane
    found = {worker.worker: worker.beside.get(lane, 0) for worker in workers}
    total = pending.unplaced_beside.get(lane, 0) + sum(found.values())
    if total >= facts.max_waiting:
        text = f"{total} requests to {facts.kind.name} are already waiting for {facts.model}"
        return Refused(OverloadedError(text, retry_after_s=_SHORTEST_S, reason="queue_full"))
    if not workers:
        return Placed(lane=lane, reason="no worker holds the model yet")
    best = min(found, key=lambda name: (found[name], rank_of(name, facts.request_id)))
    reason = "only worker" if len(workers) == 1 else "fewest wait"
    seen = pending.sights.get(best, _UNSEEN).version
    wait_s = None if found[best] else 0.0
    own = _own_id(workers, best)
    return Placed(lane=lane, worker=best, wait_s=wait_s, reason=reason, seen=seen, own_model=own)


def most_waiting(priority: Priority, max_waiting: int) -> int:
    """How many requests may wait before one of this class is refused: batch work leaves half of the places to
    people."""
    return max(1, max_waiting // 2) if priority == "batch" else max_waiting


def _too_many(workers: Iterable[WorkerLease], pending: Pending, facts: Facts) -> Refused | None:
    total = sum(pending.unplaced) + sum(sum(waiting(worker)) for worker in workers)
    places = sum(free(worker, facts.priority) for worker in workers)
    excess = total - places - most_waiting(facts.priority, facts.max_waiting)
    if excess < 0:
        return None
    turn_s = min((w.service_s / max(1, w.capacity) for w in workers if w.service_s), default=0.0)
    error = OverloadedError(
        f"{total} requests are already waiting for {facts.model}",
        retry_after_s=_clamped((excess + 1) * turn_s),
        reason="queue_full",
    )
    return Refused(error)


def _too_long(facts: Facts, wait: Wait) -> Refused:
    error = OverloadedError(
        f"a request for {facts.model} would wait about {wait.expected_s:.0f} s now, more than the "
        f"{facts.may_wait_s:.0f} s it may",
        retry_after_s=_clamped(wait.expected_s - facts.may_wait_s),
        reason="wait_too_long",
    )
    return Refused(error)


def _clamped(seconds: float) -> int:
    return min(_LONGEST_S, max(_SHORTEST_S, math.ceil(seconds)))
