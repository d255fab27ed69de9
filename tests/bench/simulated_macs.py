"""A Mac that is simulated: its lists, places, cache and engine, in the time of `tests.bench.admission.World`.

It works as the echo engine does: a step of all that decode, then a chunk of one prompt. What is cached is counted in
tokens by conversation and by head, and never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.dispatch.facts import Home, Known, Placed, Sight
from shared.cost import PrefillCost
from shared.places import RESERVED_PLACES, free_places
from shared.registry import WorkerLease
from shared.request import PRIORITIES, Priority
from tests.bench.admission import World
from tests.bench.agents import TOKENS_PER_WORD
from worker.rq.gate import AHEAD_S
from worker.serving.drift import Drift
from worker.serving.service_time import Pace

MODEL = "m"
TOKENS_PER_BYTE = 0.25
_CAPACITY = 4
_CHUNK_S = 1.0
_SOON_S = 5.0


@dataclass(eq=False, slots=True, kw_only=True)
class Ask:
    """One turn of `tokens`, of which `head_tokens` are those of a head that others share; `said` are its answer's.
    `turn` is which one of its session it is, or is asked for. `cached` tokens were known where it was computed."""

    conversation: str
    head: str
    head_tokens: int
    tokens: int
    said: int
    priority: Priority
    turn: int = 0
    asked_s: float = 0.0
    home: Home | None = None
    place: Placed | None = None
    cached: int | None = None
    depth: int = 0
    words_left: int = 0
    begun_s: float = 0.0
    first_s: float = 0.0
    is_beside: bool = False
    worker: str = ""
    job: str = ""
    on_end: Callable[[], None] = lambda: None

    @property
    def score(self) -> float:
        return self.asked_s if self.place is None else self.place.note.score

    @property
    def is_to_prefill(self) -> bool:
        return self.depth < self.tokens


class Mac:
    """One worker. `prefill` and `decode` are tokens per second, at the start of a prompt and of one stream."""

    def __init__(self, world: World, name: str, *, prefill: float, decode: float, slow_at_tokens: int) -> None:
        self.name = name
        self.listed: list[Ask] = []
        self.running: list[Ask] = []
        self._world = world
        self._cost = PrefillCost(token_s=1 / prefill, depth_s=1 / prefill / slow_at_tokens)
        self._step_s = TOKENS_PER_WORD / decode
        self._known: dict[str, int] = {}
        self._soon: dict[str, tuple[int, float]] = {}
        self._cold_s = 0.0
        self._version = 0
        self._pace, self._drift = Pace(), Drift()
        self._is_stepping = False

    # --- what a gateway sees of it ---------------------------------------------------------------------------------

    @property
    def jobs(self) -> int:
        return len(self.running) + len(self.listed)

    @property
    def has_place(self) -> bool:
        return self.jobs < _CAPACITY

    def lease(self, *, but: Ask | None = None) -> WorkerLease:
        service, drift = self._pace.service_s, self._drift
        return WorkerLease(
            worker=self.name,
            model=MODEL,
            host=self.name,
            pid=1,
            epoch="e",
            state="ready",
            capacity=_CAPACITY,
            reserved_places=RESERVED_PLACES,
            held=_counts(self.running),
            queued=_counts([ask for ask in self.listed if ask is not but]),
            waiting_s=tuple(sum(map(self._left_s, asks)) for asks in _by_class(self.running)),
            prefill_s=self._pace.prefill_s.mean,
            service_s=service.mean,
            service_deviation_s=service.deviation,
            prefill_token_s=self._cost.token_s,
            prefill_depth_s=self._cost.depth_s,
            tokens_per_byte=TOKENS_PER_BYTE,
            wait_factor=drift.wait.value,
            prefill_factor=drift.alone.value,
            beside_factor=drift.beside.value,
        )

    def sight(self, ask: Ask, *, but: Ask | None = None) -> Sight:
        listed = [each for each in self.listed if each is not but and each.place is not None]
        soon = (self._soon.get(key, (0, 0.0)) for key in (ask.conversation, ask.head))
        coming = max(tokens if until_s > self._world.now_s else 0 for tokens, until_s in soon)
        return Sight(
            version=self._version,
            notes={each.job: each.place.note for each in listed if each.place is not None},
            memory=_known(self._cached_of(ask)),
            soon=_known(min(coming, ask.tokens - 1)),
            cold_s=self._cold_s,
        )

    def _cached_of(self, ask: Ask) -> int:
        return min(max(self._known.get(ask.conversation, 0), self._known.get(ask.head, 0)), ask.tokens - 1)

    def _left_s(self, ask: Ask) -> float:
        depth = self._cached_of(ask) if ask.cached is None else ask.depth
        return self._cost.predict_s(depth, ask.tokens) if depth < ask.tokens else 0.0

    # --- what it does ----------------------------------------------------------------------------------------------

    def put(self, ask: Ask) -> None:
        self._version += 1
        ask.worker = self.name
        self.listed.append(ask)
        prospect = None if ask.place is None else ask.place.prospect
        if prospect is not None:
            until_s = self._world.now_s + prospect.first_s + _SOON_S
            self._soon |= {ask.conversation: (ask.tokens, until_s), ask.head: (ask.head_tokens, until_s)}
            if not prospect.cached_tokens:
                self._cold_s = self._world.now_s
        self.claim()

    def claim(self) -> None:
        """As a worker does: the highest class first, no more than can begin."""
        for asks in _by_class(self.listed):
            for ask in sorted(asks, key=lambda ask: ask.score):
                if not self._may_take(ask):
                    break
                self.listed.remove(ask)
                self.running.append(ask)
        if self.running and not self._is_stepping:
            self._is_stepping = True
            self._step()

    def _may_take(self, ask: Ask) -> bool:
        rank = PRIORITIES.index(ask.priority)
        ahead_s = sum(self._left_s(each) for each in self.running if PRIORITIES.index(each.priority) <= rank)
        return free_places(_CAPACITY, _counts(self.running), ask.priority) > 0 and ahead_s < AHEAD_S

    def _step(self) -> None:
        decoding = [ask for ask in self.running if ask.words_left][:_CAPACITY]
        self._world.after(self._step_s if decoding else 0.0, lambda: self._said(decoding))

    def _said(self, decoding: Sequence[Ask]) -> None:
        for ask in decoding:
            ask.first_s = ask.first_s or self._world.now_s - ask.asked_s
            ask.words_left -= 1
            if not ask.words_left:
                self._end(ask)
        to_prefill = [ask for ask in self.running if ask.is_to_prefill]
        if not to_prefill:
            self._go_on()
            return
        self._prefill(min(to_prefill, key=lambda ask: PRIORITIES.index(ask.priority)))

    def _prefill(self, ask: Ask) -> None:
        if ask.cached is None:
            ask.cached = ask.depth = self._cached_of(ask)
            ask.begun_s = self._world.now_s
            ask.is_beside = any(each.words_left for each in self.running)
        tokens = max(1, min(ask.tokens - ask.depth, self._cost.fitting_tokens(ask.depth, _CHUNK_S)))
        self._world.after(self._cost.predict_s(ask.depth, ask.depth + tokens), lambda: self._computed(ask, tokens))

    def _computed(self, ask: Ask, tokens: int) -> None:
        ask.depth += tokens
        if not ask.is_to_prefill:
            ask.words_left = max(1, ask.said // TOKENS_PER_WORD)
            self._known |= {ask.conversation: ask.tokens, ask.head: ask.head_tokens}
            self._learn(ask)
        self._go_on()

    def _learn(self, ask: Ask) -> None:
        took_s = self._world.now_s - ask.begun_s
        self._pace.prefill_s.observe(took_s)
        prospect = None if ask.place is None else ask.place.prospect
        if prospect is not None:
            self._drift.wait.observe(predicted_s=prospect.raw_wait_s, actual_s=ask.begun_s - ask.asked_s)
            self._drift.note_prefill(predicted_s=prospect.raw_own_s, actual_s=took_s, is_beside=ask.is_beside)

    def _end(self, ask: Ask) -> None:
        self.running.remove(ask)
        self._known[ask.conversation] = ask.tokens + ask.said
        self._pace.service_s.observe(self._world.now_s - ask.begun_s)
        ask.on_end()

    def _go_on(self) -> None:
        self._is_stepping = False
        self.claim()


def _by_class(asks: Sequence[Ask]) -> list[list[Ask]]:
    return [[ask for ask in asks if ask.priority == priority] for priority in PRIORITIES]


def _counts(asks: Sequence[Ask]) -> tuple[int, ...]:
    return tuple(map(len, _by_class(asks)))


def _known(tokens: int) -> Known:
    return Known(tokens, math.floor(tokens / TOKENS_PER_BYTE)) if tokens else Known()
