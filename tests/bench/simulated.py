"""Where agents' requests go on several Macs, simulated: `place` and `better_place` themselves in a closed loop.

Traffic, Macs and loads are those of `make bench-placement`. No machine is measured, so that what differs between two
rules is the rules' doing. What it leaves out: caches that are full, gateways beside each
other, leases that are late, and what it costs to pass requests on.

Two means are told: of what was answered in some time, where who is served sooner asks more, so that each rule is judged
by other turns; and of the same turns of every session, however long each rule takes for them.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from gateway.dispatch.facts import Facts, Home, Pending, Placed
from gateway.dispatch.moves import better_place
from gateway.dispatch.place import place
from shared.notes import Note
from shared.registry import Fleet
from shared.request import Priority
from tests.bench import agents
from tests.bench.admission import World
from tests.bench.placement import FLEETS, LOADS, SLOW_AT_TOKENS
from tests.bench.report import Table, percentile
from tests.bench.simulated_macs import MODEL, TOKENS_PER_BYTE, Ask, Mac

_LOOK_S = 1.0
_WARM_S = 200.0
_SEEDS = range(3)
SAME_TURNS = range(6, 40)  # of each session: the first ones meet cold caches

# What an agent does next: sleeps for seconds, waits for an answer, or for all of some other agents.
Agent = Iterator["float | Ask | list[Agent]"]


class SimulatedFleet:
    """Sessions of agents, and a gateway that places by a rule. `moves` is whether what waits may move."""

    moves = True

    def __init__(self, size: int, load: str, *, seed: int = 0) -> None:
        self._world = World()
        self._macs = {
            f"{mac.name}{number}": Mac(
                self._world,
                f"{mac.name}{number}",
                prefill=mac.prefill,
                decode=mac.decode,
                slow_at_tokens=SLOW_AT_TOKENS,
            )
            for number, mac in enumerate(FLEETS[size])
        }
        self._sessions = round(LOADS[load] * size)
        self._seed = seed
        self._homes: dict[str, Home] = {}
        self._asks: list[Ask] = []
        self._turns: dict[int, int] = {}  # which one each session is at

    def run(self, seconds: float) -> list[Ask]:
        """Those whose answers began once the fleet was warm."""
        self._start()
        self._world.run(_WARM_S + seconds)
        return [ask for ask in self._asks if ask.first_s and ask.asked_s + ask.first_s > _WARM_S]

    def run_turns(self, turns: range) -> list[Ask]:
        """These turns of every session, with those of the subagents that it starts for them: the same ones whatever the
        rule. Whoever is done goes on until all are, so that the last ones do not meet an idle fleet."""
        self._start()
        while len(self._behind(turns)) < self._sessions:
            self._world.run(self._world.now_s + _LOOK_S)
        return [ask for ask in self._asks if ask.turn in turns]

    def _behind(self, turns: range) -> set[int]:
        """Sessions that have had all of these turns: they asked for a later one."""
        return {number for number, turn in self._turns.items() if turn >= turns.stop}

    def _start(self) -> None:
        for number in range(self._sessions):
            chance = random.Random(f"{self._seed}-{number}")
            self._begin(self._session(number, chance), chance.uniform(0, 2 * agents.THINKS_S))
        self._world.after(_LOOK_S, self._look_again)

    # --- agents ----------------------------------------------------------------------------------------------------

    def _begin(self, agent: Agent, seconds: float = 0.0, done: Callable[[], None] = lambda: None) -> None:
        self._world.after(seconds, lambda: self._advance(agent, done))

    def _advance(self, agent: Agent, done: Callable[[], None]) -> None:
        match next(agent, None):
            case None:
                done()
            case Ask() as ask:
                ask.on_end = lambda: self._begin(agent, done=done)
                self._asked(ask)
            case [*others]:
                left = iter(range(len(others) - 1, -1, -1))
                for other in others:
                    self._begin(other, done=lambda: None if next(left) else self._advance(agent, done))
            case float(seconds):
                self._begin(agent, seconds, done)

    def _session(self, number: int, chance: random.Random) -> Agent:
        for life in range(10_000):
            name, tokens = f"s{number}l{life}", agents.HEAD_TOKENS
            while tokens < agents.CONTEXT_TOKENS:
                turn = self._turns[number] = self._turns.get(number, -1) + 1
                if chance.random() < agents.BURST_SHARE:
                    seeds = [chance.random() for _ in range(chance.randint(*agents.BURST))]
                    yield [self._subagent(name, turn, random.Random(seed)) for seed in seeds]
                ask = _turn(name, "head", agents.HEAD_TOKENS, tokens, "interactive", chance)
                ask.turn = turn
                yield ask
                tokens = ask.tokens + ask.said
                yield chance.expovariate(1 / agents.THINKS_S)

    def _subagent(self, session: str, turn: int, chance: random.Random) -> Agent:
        name, tokens = f"{session}a{chance.getrandbits(40):x}", agents.SUBAGENT_TOKENS
        for _ in range(chance.randint(*agents.SUBAGENT_TURNS)):
            ask = _turn(name, "subagent", agents.SUBAGENT_TOKENS, tokens, "subagent", chance)
            ask.turn = turn
            yield ask
            tokens = ask.tokens + ask.said
            yield chance.expovariate(2 / agents.THINKS_S)

    # --- the gateway -----------------------------------------------------------------------------------------------

    def _asked(self, ask: Ask) -> None:
        ask.asked_s, ask.job = self._world.now_s, f"j{len(self._asks)}"
        ask.home = self._homes.get(ask.conversation)
        self._asks.append(ask)
        self._put(ask, self.decide(ask))

    def _put(self, ask: Ask, to: Placed) -> None:
        ask.place = to
        self._homes[ask.conversation] = _home_after(ask.home, to.worker)
        self._macs[to.worker].put(ask)

    def decide(self, ask: Ask, *, but: Ask | None = None) -> Placed:
        """The rule, as it is shipped. `but` is what waits already and is not counted there."""
        facts = Facts(
            request_id=ask.job,
            model=MODEL,
            priority=ask.priority,
            may_wait_s=math.inf,
            max_waiting=10**6,
            text_bytes=math.ceil(ask.tokens / TOKENS_PER_BYTE),
            flow=ask.conversation,
            home=ask.home,
            now_s=self._world.now_s,
        )
        sights = {mac.name: mac.sight(ask, but=but) for mac in self._macs.values()}
        leases = tuple(mac.lease(but=but) for mac in self._macs.values())
        placed = place(Fleet(workers=leases), Pending(sights=sights), facts)
        assert isinstance(placed, Placed)
        return placed

    def _look_again(self) -> None:
        """At all that has waited for a while, as a gateway does."""
        self._world.after(_LOOK_S, self._look_again)
        for mac in self._macs.values() if self.moves else ():
            for ask in [ask for ask in mac.listed if self._world.now_s - ask.asked_s >= _LOOK_S]:
                if ask in mac.listed and ask.place is not None:
                    to = better_place(ask.place, self.decide(ask, but=ask), is_served=True)
                    if to is not None:
                        mac.listed.remove(ask)
                        self._put(ask, to)

    def _least_loaded(self) -> Mac:
        return min(self._macs.values(), key=lambda mac: (mac.jobs, mac.name))


def _home_after(home: Home | None, worker: str) -> Home:
    if home is None:
        return Home(worker)
    turn = home.turn + 1
    return Home(worker, turn, home.moved if home.worker == worker else turn)


def _turn(name: str, head: str, head_tokens: int, tokens: int, priority: Priority, chance: random.Random) -> Ask:
    low, high = agents.TURN_TOKENS
    asked = int(low * (high / low) ** chance.random())
    said = chance.randint(*agents.ANSWER_TOKENS)
    return Ask(
        conversation=name, head=head, head_tokens=head_tokens, tokens=tokens + asked, said=said, priority=priority
    )


class StickyFleet(SimulatedFleet):
    """A session stays where its first request was put, where the fewest requests were."""

    moves = False

    def decide(self, ask: Ask, *, but: Ask | None = None) -> Placed:
        name = self._least_loaded().name if ask.home is None else ask.home.worker
        return Placed(lane=ask.priority, worker=name, note=Note(lane=ask.priority, score=ask.asked_s))


class SharedQueueFleet(SimulatedFleet):
    """Whoever has a place free takes the next, the first come of the highest class."""

    moves = False

    def __init__(self, size: int, load: str, *, seed: int = 0) -> None:
        super().__init__(size, load, seed=seed)
        self._queue: list[Ask] = []

    def _put(self, ask: Ask, to: Placed) -> None:
        ask.place = to
        self._queue.append(ask)
        after = ask.on_end
        ask.on_end = lambda: (after(), self._pull())  # type: ignore[func-returns-value]
        self._pull()

    def decide(self, ask: Ask, *, but: Ask | None = None) -> Placed:
        return Placed(lane=ask.priority, note=Note(lane=ask.priority, score=ask.asked_s))

    def _pull(self) -> None:
        while self._queue and (mac := self._least_loaded()).has_place:
            ask = min(self._queue, key=lambda ask: (ask.priority != "interactive", ask.asked_s))
            self._queue.remove(ask)
            self._homes[ask.conversation] = Home(mac.name)
            ask.home = Home(mac.name)
            mac.put(ask)


RULES: dict[str, type[SimulatedFleet]] = {
    "ours": SimulatedFleet,
    "shared-queue": SharedQueueFleet,
    "sticky": StickyFleet,
}


def mean_first_s(rule: str, size: int, load: str, *, seconds: float, seeds: Sequence[int] = _SEEDS) -> float:
    return statistics.mean(ask.first_s for seed in seeds for ask in RULES[rule](size, load, seed=seed).run(seconds))


def same_turns_first_s(rule: str, size: int, load: str, *, seeds: Sequence[int] = _SEEDS) -> list[float]:
    return [ask.first_s for seed in seeds for ask in RULES[rule](size, load, seed=seed).run_turns(SAME_TURNS)]


def measure_simulated(seconds: float = 1000.0) -> Table:
    columns = ("Macs", "load", "rule", "turns", "mean s", "p95 s", "cached", "moves/100", "error s")
    columns += ("same turns: mean s", "p95 s")
    table = Table("first token of agents, simulated: seconds until it comes", columns)
    for size in (2, 4, 8):
        for load in LOADS:
            for rule in RULES:
                in_time = _row([RULES[rule](size, load, seed=seed).run(seconds) for seed in _SEEDS])
                same = same_turns_first_s(rule, size, load)
                figures = (f"{statistics.mean(same):.2f}", f"{percentile(same, 0.95):.1f}")
                table.add(str(size), load, rule, *in_time, *figures)
    table.notes.append("same turns: of each session, whatever the rule; else what was answered in the same time")
    return table


def _row(runs: Sequence[Sequence[Ask]]) -> list[str]:
    asks = [ask for run in runs for ask in run]
    first = [ask.first_s for ask in asks]
    pairs = [pair for run in runs for pair in _pairs(run)]
    prospects = [(ask, ask.place.prospect) for ask in asks if ask.place is not None]
    errors = [abs(ask.first_s - prospect.first_s) for ask, prospect in prospects if prospect is not None]
    return [
        *(str(len(asks)), f"{statistics.mean(first):.2f}", f"{percentile(first, 0.95):.1f}"),
        f"{sum(ask.cached or 0 for ask in asks) / sum(ask.tokens for ask in asks):.2f}",
        f"{100 * sum(before != after for before, after in pairs) / len(pairs):.1f}",
        f"{statistics.median(errors):.2f}" if errors else "-",
    ]


def _pairs(run: Sequence[Ask]) -> list[tuple[str, str]]:
    """Who answered a turn, and who the next of the same conversation."""
    workers: defaultdict[str, list[str]] = defaultdict(list)
    for ask in run:
        workers[ask.conversation].append(ask.worker)
    return [pair for each in workers.values() for pair in pairwise(each)]
