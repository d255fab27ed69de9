"""Where a request goes and how long it will wait there, or why it is refused: one decision, pure.

Two things let a request wait on a worker: a place in its batch, and its turn to be prefilled. Places become free one
per `service_s / capacity` seconds, where `service_s` is how long a request holds its place, measured by the worker
from the start of the prefill; the first one after the mean residual time, which their spread makes longer. Prefills
take their turns, so that those ahead add up. Whichever takes longer is the wait. Only requests of the same class and
of those before it count as ahead.

Work that is done beside the batch (a kind with a lane of its own) takes no place and milliseconds. It goes where the
fewest of its kind wait, and is refused only when too many do.

Where workers are equal, each request has an order of its own among them. Two gateways do not hear of each other's
choices before the next leases, and would put a burst on one list if the same name always came first.

A request is refused for time only when even a lucky wait would be longer than it may wait: what was predicted is a
sum of random times, and `_LUCK` deviations below its mean still counts as possible. While nothing was measured,
nothing is refused for time. Counts always hold.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shared.errors import GatewayError, OverloadedError, UnsupportedWorkError
from shared.places import NONE, Counts, free_places
from shared.registry import Fleet, WorkerLease
from shared.request import PRIORITIES, Priority
from shared.work import KINDS, Generate, Kind

_SHORTEST_S, _LONGEST_S = 1, 60  # Claude Code shows longer waits as an error instead of waiting
_LUCK = 4.0
_WIDEST = 2.0  # deviation over mean that is believed
_PREFILL_LUCK = 0.7  # of a predicted prefill: a prefix may be found in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One request: its id, what it asks for and `may_wait_s`, how long it may wait until its prefill begins.
    `max_waiting` is how many requests may wait for a model, those of other lanes not counted; `avoid` the workers that
    have failed this request."""

    request_id: str
    model: str
    priority: Priority
    may_wait_s: float
    max_waiting: int
    avoid: frozenset[str] = frozenset()
    kind: Kind = KINDS[Generate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What this gateway knows beyond the leases. `since` counts what it has put into a worker's lists and the worker's
    lease does not show yet; `unplaced` the jobs that wait until a worker holds the model. `since_beside` and
    `unplaced_beside` are the same by lane, for the kinds of work that have their own."""

    since: Mapping[str, Counts] = field(default_factory=dict)
    unplaced: Counts = NONE
    since_beside: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unplaced_beside: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The list to put the job into: that of a worker and lane; of the model and lane where `worker` is empty, because
    none holds the model yet. `wait_s` is the predicted wait, None while nothing is known."""

    lane: str
    worker: str = ""
    wait_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    error: GatewayError


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds until the prefill begins: expected, and with luck."""

    expected_s: float
    least_s: float


def place(fleet: Fleet, pending: Pending, facts: Facts) -> Placed | Refused:
    """The worker on which the request will begin soonest; an error that says when to ask again when too
    many wait, or when it could not begin in time on any, and one that does not when no worker does such work."""
    ready = [worker for worker in fleet.ready_workers(facts.model) if worker.worker not in facts.avoid]
    workers = [worker for worker in ready if facts.kind.name in worker.kinds]
    if ready and not workers:
        return Refused(UnsupportedWorkError.of(facts.kind.name, facts.model))
    return _place_beside(workers, pending, facts) if facts.kind.lane else _place_in_batch(workers, pending, facts)


def _place_in_batch(workers: Sequence[WorkerLease], pending: Pending, facts: Facts) -> Placed | Refused:
    waits = {worker.worker: wait_on(worker, pending, facts.priority) for worker in workers}
    refusal = _too_many(workers, pending, facts, waits)
    if refusal is not None:
        return refusal
    if not workers:
        return Placed(lane=facts.priority, reason="no worker holds the model yet")
    is_known = all(wait is not None for wait in waits.values())  # else only how busy they are can be compared
    best = min(
        workers,
        key=lambda worker: (
            _expected_s(waits[worker.worker]) if is_known else 0.0,
            _busy(worker, pending),
            _rank(worker.worker, facts.request_id),
        ),
    )
    wait = waits[best.worker]
    if wait is not None and wait.least_s > facts.may_wait_s:
        return _too_long(facts, wait)
    return Placed(
        lane=facts.priority,
        worker=best.worker,
        wait_s=None if wait is None else wait.expected_s,
        reason="only worker" if len(workers) == 1 else "begins soonest",
    )


def _place_beside(workers: Sequence[WorkerLease], pending: Pending, facts: Facts) -> Placed | Refused:
    lane = facts.kind.lane
    waiting = {worker.worker: _waiting_beside(worker, pending, lane) for worker in workers}
    total = pending.unplaced_beside.get(lane, 0) + sum(waiting.values())
    if total >= facts.max_waiting:
        text = f"{total} requests to {facts.kind.name} are already waiting for {facts.model}"
        return Refused(OverloadedError(text, retry_after_s=_SHORTEST_S, reason="queue_full"))
    if not workers:
        return Placed(lane=lane, reason="no worker holds the model yet")
    best = min(waiting, key=lambda name: (waiting[name], _rank(name, facts.request_id)))
    reason = "only worker" if len(workers) == 1 else "fewest wait"
    return Placed(lane=lane, worker=best, wait_s=None if waiting[best] else 0.0, reason=reason)


def wait_on(worker: WorkerLease, pending: Pending, priority: Priority) -> Wait | None:
    """The wait on one worker; None while it has measured nothing and has no free place."""
    rank = PRIORITIES.index(priority)
    ahead = sum(_waiting(worker, pending)[: rank + 1])
    departures = max(0, ahead + 1 - free(worker, priority))
    if departures and not worker.service_s:
        return None
    turn_s = worker.service_s / max(1, worker.capacity)
    spread = min(_WIDEST, worker.service_deviation_s / worker.service_s) if worker.service_s else 0.0
    prefill_s = sum(worker.waiting_s[: rank + 1]) + ahead * worker.prefill_s
    turns = departures - 1 + (1 + spread * spread) / 2 if departures else 0.0
    rounds = max(0, departures - 1) // max(1, worker.capacity)  # places may become free all at once
    lucky = max(0.0, rounds * max(1, worker.capacity) - _LUCK * spread * math.sqrt(departures))
    return Wait(
        expected_s=max(turns * turn_s, prefill_s),
        least_s=max(lucky * turn_s, _PREFILL_LUCK * prefill_s),
    )


def free(worker: WorkerLease, priority: Priority) -> int:
    return free_places(worker.capacity, worker.held, priority, reserved=worker.reserved_places)


def most_waiting(priority: Priority, max_waiting: int) -> int:
    """How many requests may wait before one of this class is refused: batch work leaves half of the places to
    people."""
    return max(1, max_waiting // 2) if priority == "batch" else max_waiting


def _too_many(
    workers: Iterable[WorkerLease], pending: Pending, facts: Facts, waits: Mapping[str, Wait | None]
) -> Refused | None:
    waiting = sum(pending.unplaced) + sum(sum(_waiting(worker, pending)) for worker in workers)
    places = sum(free(worker, facts.priority) for worker in workers)
    excess = waiting - places - most_waiting(facts.priority, facts.max_waiting)
    if excess < 0:
        return None
    turn_s = min((w.service_s / max(1, w.capacity) for w in workers if w.service_s), default=0.0)
    error = OverloadedError(
        f"{waiting} requests are already waiting for {facts.model}",
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


def _waiting(worker: WorkerLease, pending: Pending) -> Counts:
    """Jobs in the worker's lists, by class."""
    since = pending.since.get(worker.worker, NONE)
    queued = worker.queued or NONE
    return tuple(a + b for a, b in zip(queued, since, strict=True))


def _waiting_beside(worker: WorkerLease, pending: Pending, lane: str) -> int:
    return worker.beside.get(lane, 0) + pending.since_beside.get(worker.worker, {}).get(lane, 0)


def _expected_s(wait: Wait | None) -> float:
    return 0.0 if wait is None else wait.expected_s


def _busy(worker: WorkerLease, pending: Pending) -> float:
    return (sum(worker.held) + sum(_waiting(worker, pending))) / max(1, worker.capacity)


def _rank(worker: str, request_id: str) -> bytes:
    """The worker's turn in an order that is the request's own: the same in every gateway, another for another request
    (rendezvous hashing)."""
    return hashlib.blake2b(f"{request_id}\0{worker}".encode(errors="replace"), digest_size=8).digest()


def _clamped(seconds: float) -> int:
    return min(_LONGEST_S, max(_SHORTEST_S, math.ceil(seconds)))
