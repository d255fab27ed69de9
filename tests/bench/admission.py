"""Does `place` refuse only what would have come too late, and is the wait that it predicts the wait that comes?

A closed loop, simulated: clients ask, wait for the answer and ask again; who is refused asks again when told. A worker
takes jobs as the real one does: the highest class first, no more than its places, and none while prefills of two
seconds wait. The gateway sees rates of leases that are a third of a
second old, and the lists as they are. Whoever is refused leaves a ghost in the queue,
which takes nothing and notes when it would have begun: that is how a refusal is judged.

Nobody gives up while he waits, so that no ghost begins sooner because others have left.

What the simulation leaves out: batches that slow each other down, caches, and workers that die.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from gateway.dispatch.facts import Facts, Pending, Placed
from gateway.dispatch.place import place
from shared.places import RESERVED_PLACES, Counts, free_places
from shared.registry import Fleet, WorkerLease
from shared.request import PRIORITIES, Priority
from tests.bench.report import Table
from worker.serving.service_time import RunningMean

_LEASE_EVERY_S = 1.0
_RENEWED_S = 0.1 + 0.25  # a lease's rest, and until the gateway looks again
_GATE_S = 2.0  # of prefill ahead, beyond which a worker takes no more
_MODEL = "m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`prefill_s` and `decode_s` are means; `spread` 0 makes them constant, 1 exponential."""

    clients: int
    capacity: int
    workers: int = 1
    prefill_s: float = 0.2
    decode_s: float = 2.0
    spread: float = 0.3
    may_wait_s: float = 20.0
    max_waiting: int = 1000
    batch_share: float = 0.0
    seconds: float = 300.0
    seed: int = 1

    def __str__(self) -> str:
        return (
            f"{self.clients} clients, {self.workers} x {self.capacity}, spread {self.spread}, batch {self.batch_share}"
        )


@dataclass(eq=False, slots=True)
class Job:
    priority: Priority
    asked_s: float
    prefill_s: float
    decode_s: float
    predicted_s: float | None = None
    begun_s: float | None = None
    is_ghost: bool = False
    on_end: Callable[[], None] = lambda: None


class World:
    """Events in the order of their time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._numbers), do))

    def run(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, do = heapq.heappop(self._events)
            do()


class SimulatedWorker:
    """One worker: its lists, its places, and one prefill at a time."""

    def __init__(self, world: World, name: str, capacity: int) -> None:
        self._world = world
        self._lists: dict[Priority, deque[Job]] = {priority: deque() for priority in PRIORITIES}
        self._to_prefill: list[Job] = []
        self._prefilling: Job | None = None
        self._running: list[Job] = []
        self._service, self._prefill = RunningMean(), RunningMean()
        self._base = WorkerLease(
            worker=name,
            model=_MODEL,
            host="h",
            pid=1,
            epoch="e",
            state="ready",
            capacity=capacity,
            reserved_places=RESERVED_PLACES,
        )
        self.lease = self._base
        self._will_renew = False
        self._keep_lease()

    def put(self, job: Job) -> None:
        self._lists[job.priority].append(job)
        self._claim()

    def _renew_soon(self) -> None:
        """As the real one: a moment after something changed."""
        if not self._will_renew:
            self._will_renew = True
            self._world.after(_RENEWED_S, self._write_lease)

    def _keep_lease(self) -> None:
        self._write_lease()
        self._world.after(_LEASE_EVERY_S, self._keep_lease)

    def looked_at(self) -> WorkerLease:
        """As a gateway finds it: the lists as they are, what was claimed counted where it is, rates of the lease."""
        waiting = [sum(j.prefill_s for j in self._held_back() if j.priority == p) for p in PRIORITIES]
        queued = tuple(sum(not job.is_ghost for job in self._lists[p]) for p in PRIORITIES)
        return replace(self.lease, held=self._held(), queued=queued, waiting_s=tuple(waiting))

    def _write_lease(self) -> None:
        self._will_renew = False
        self.lease = replace(
            self._base,
            prefill_s=self._prefill.mean,
            service_s=self._service.mean,
            service_deviation_s=self._service.deviation,
        )

    def _held_back(self) -> list[Job]:
        return [*self._to_prefill, *([self._prefilling] if self._prefilling else [])]

    def _may_take(self, priority: Priority) -> bool:
        rank = PRIORITIES.index(priority)
        ahead_s = sum(j.prefill_s for j in self._held_back() if PRIORITIES.index(j.priority) <= rank)
        return free_places(self._base.capacity, self._held(), priority) > 0 and ahead_s < _GATE_S

    def _held(self) -> Counts:
        return tuple(sum(job.priority == priority for job in self._running) for priority in PRIORITIES)

    def _claim(self) -> None:
        for priority in PRIORITIES:
            while self._lists[priority] and self._may_take(priority):
                job = self._lists[priority].popleft()
                if job.is_ghost:
                    job.begun_s = self._world.now_s
                else:
                    self._running.append(job)
                    self._to_prefill.append(job)
                    self._renew_soon()
                    self._next_prefill()
            if self._lists[priority]:
                return

    def _next_prefill(self) -> None:
        if self._prefilling is None and self._to_prefill:
            job = min(self._to_prefill, key=lambda j: PRIORITIES.index(j.priority))
            self._to_prefill.remove(job)
            self._prefilling, job.begun_s = job, self._world.now_s
            self._world.after(job.prefill_s, lambda: self._prefilled(job))

    def _prefilled(self, job: Job) -> None:
        self._prefilling = None
        self._prefill.observe(job.prefill_s)
        self._world.after(job.decode_s, lambda: self._end(job))
        self._next_prefill()
        self._claim()

    def _end(self, job: Job) -> None:
        self._running.remove(job)
        assert job.begun_s is not None
        self._service.observe(self._world.now_s - job.begun_s)
        self._renew_soon()
        job.on_end()
        self._claim()


@dataclass(slots=True)
class Outcome:
    """`refused` pairs a ghost with how long it could have waited at most."""

    accepted: list[Job] = field(default_factory=list)
    refused: list[Job] = field(default_factory=list)
    may_wait_s: float = 0.0

    @property
    def waits_s(self) -> list[float]:
        return [job.begun_s - job.asked_s for job in self.accepted if job.begun_s is not None]

    @property
    def wrongly_refused(self) -> int:
        """Those that would have begun in time."""
        return sum(g.begun_s is not None and g.begun_s - g.asked_s < self.may_wait_s for g in self.refused)

    @property
    def late(self) -> int:
        """Those that were accepted and not begun in time."""
        return sum(wait_s > 1.25 * self.may_wait_s for wait_s in self.waits_s)

    @property
    def errors_s(self) -> list[float]:
        """Of the predicted wait, where one was predicted."""
        return [
            abs(job.begun_s - job.asked_s - job.predicted_s)
            for job in self.accepted
            if job.begun_s is not None and job.predicted_s is not None
        ]


class Simulation:
    """A closed loop of clients around one gateway and its workers."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._world = World()
        self._workers = {
            name: SimulatedWorker(self._world, name, scenario.capacity)
            for name in (f"w{number}" for number in range(scenario.workers))
        }
        self.outcome = Outcome(may_wait_s=scenario.may_wait_s)

    def run(self) -> Outcome:
        for client in range(self._scenario.clients):
            is_batch = client < self._scenario.batch_share * self._scenario.clients
            self._world.after(self._random.random(), self._asking("batch" if is_batch else "interactive"))
        self._world.run(self._scenario.seconds)
        return self.outcome

    def _asking(self, priority: Priority) -> Callable[[], None]:
        return lambda: self._ask(priority)

    def _ask(self, priority: Priority) -> None:
        scenario = self._scenario
        job = Job(priority, self._world.now_s, self._drawn(scenario.prefill_s), self._drawn(scenario.decode_s))
        facts = Facts(
            request_id=f"r{len(self.outcome.accepted) + len(self.outcome.refused)}",
            model=_MODEL,
            priority=priority,
            may_wait_s=scenario.may_wait_s,
            max_waiting=scenario.max_waiting,
        )
        decided = place(Fleet(workers=tuple(w.looked_at() for w in self._workers.values())), Pending(), facts)
        if isinstance(decided, Placed):
            job.predicted_s, job.on_end = decided.wait_s, lambda: self._world.after(0.0, self._asking(priority))
            self.outcome.accepted.append(job)
            self._workers[decided.worker].put(job)
            return
        job.is_ghost = True
        self.outcome.refused.append(job)
        min(self._workers.values(), key=lambda worker: sum(worker.lease.queued)).put(job)
        self._world.after(decided.error.retry_after_s or 1.0, self._asking(priority))

    def _drawn(self, mean_s: float) -> float:
        spread = self._scenario.spread
        if spread == 0:
            return mean_s
        shape = 1 / spread**2
        return self._random.gammavariate(shape, mean_s / shape)


def scenarios() -> Iterator[Scenario]:
    for capacity in (1, 2, 4, 8, 16):
        for clients in (1, 4, 16, 64):
            for spread in (0.0, 0.3, 1.0):
                yield Scenario(clients=clients, capacity=capacity, spread=spread)


def measure_admission() -> Table:
    """Every scenario, simulated: no machine is measured, so that the figures are the same on all."""
    rows = [_row(scenario, Simulation(scenario).run()) for scenario in scenarios()]
    title = "place in a closed loop of clients, simulated (seconds; who waits may wait 20)"
    columns = ("clients", "places", "spread", "accepted", "refused", "wrongly", "late", "longest", "error p50", "p95")
    return Table(title, columns, rows)


def _row(scenario: Scenario, outcome: Outcome) -> list[str]:
    errors = sorted(outcome.errors_s) or [0.0]
    return [
        *(str(scenario.clients), str(scenario.capacity), f"{scenario.spread:g}"),
        *(str(len(outcome.accepted)), str(len(outcome.refused)), str(outcome.wrongly_refused), str(outcome.late)),
        *(f"{max(outcome.waits_s):.1f}", f"{statistics.median(errors):.2f}"),
        f"{errors[int(0.95 * (len(errors) - 1))]:.2f}",
    ]
