"""Thousands of short requests through the whole fleet, with a random fault every fifty: each is accounted for."""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cases import Case, ask
from tests.faults.client import CHAT, MESSAGES, Answer
from tests.faults.faults import FAULTS, Fault, Target
from tests.faults.fleet import Fleet
from tests.faults.trial import ANSWER_S, RETRYABLE, leftovers

TOGETHER = 8
EVERY = 50  # requests between two faults
_WORDS = 8
_TRIES = 6
_OUTCOMES = ("answered", "answered when asked again", "given up", "wrong")
_AFTER = "requests"  # in a mark: how many there were
_PAUSE_S = 0.5
_MOST_S = 6.0  # that a fault which must be undone lasts


@dataclass
class Account:
    """What became of all: outcomes, and the processes' memory at marks."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    marks: list[dict[str, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def soak(
    fleet: Fleet, requests: int, *, seed: int = 0, marks: int = 5, say: Callable[[str], None] = lambda line: None
) -> Account:
    """Clients ask again what they may ask again, as real ones do. `say` hears how far it is."""
    account, lock = Account(), threading.Lock()
    chance = random.Random(seed)
    expected = "<text>" + " ".join(f"word{number}" for number in range(_WORDS))

    def one(number: int) -> None:
        outcome, why = _asked(fleet, number, expected)
        with lock:
            account.outcomes[outcome] += 1
            if outcome == "wrong":
                account.wrong.append(why)

    with ThreadPoolExecutor(TOGETHER) as pool:
        for first in range(0, requests, EVERY):
            jobs = [pool.submit(one, number) for number in range(first, min(requests, first + EVERY))]
            fault = chance.choice(FAULTS)
            account.faults[fault.name] += 1
            _strike(fleet, fault, chance)
            for job in jobs:
                job.result()
            fleet.heal()
            if (first // EVERY + 1) % max(1, requests // EVERY // marks) == 0:
                account.marks.append(_memory(fleet) | {_AFTER: sum(account.outcomes.values())})
                say(f"{sum(account.outcomes.values())} of {requests}: {dict(account.outcomes)}")
    deadline_s = time.monotonic() + 15
    while leftovers(fleet) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    account.wrong += leftovers(fleet)
    return account


def _strike(fleet: Fleet, fault: Fault, chance: random.Random) -> None:
    time.sleep(chance.uniform(0.1, 0.6))
    lease = chance.choice(fleet.leases())
    target = Target(lease.worker, lease.pid)
    fault.strike(fleet, target)
    time.sleep(chance.uniform(0.5, _MOST_S))
    fault.undo(fleet, target)
    for node in fleet.nodes:
        if not node.is_running():
            node.start()


def _asked(fleet: Fleet, number: int, expected: str) -> tuple[str, str]:
    """How the request ended, and what was wrong. A gateway that is gone is left for the other one."""
    model = fleet.models[number // 2 % len(fleet.models)]
    case = Case("soak", model, f"NEW\necho:words {_WORDS}", (MESSAGES, CHAT)[number % 2])
    answer = Answer()
    for attempt in range(_TRIES):
        asked = ask(fleet, fleet.gateways[(number + attempt) % 2], case, secrets.token_hex(8))
        asked.join(ANSWER_S)
        answer = asked.answer()
        if not expected.startswith(answer.text) and answer.text:
            return "wrong", f"request {number}: {answer}"
        if answer.is_whole:
            if answer.text != expected:
                return "wrong", f"request {number}: {answer}"
            return ("answered", "") if attempt == 0 else ("answered when asked again", "")
        if answer.error and answer.error not in RETRYABLE:
            return "wrong", f"request {number}: {answer}"
        time.sleep(_PAUSE_S * (attempt + 1))
    return "given up", f"request {number}: {answer}"


def _memory(fleet: Fleet) -> dict[str, int]:
    """MB of the gateways and of all workers together; 0 where the system does not tell it in this way."""
    found = {node.name: _resident_mb(node.pid) for node in fleet.gateways}
    return found | {f"worker of {lease.model} of {lease.host}": _resident_mb(lease.pid) for lease in fleet.leases()}


def _resident_mb(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except OSError:
        return 0


def lines(account: Account) -> Iterator[str]:
    """For people: two tables, and what was wrong."""
    yield "| requests | how often |"
    yield "| --- | --- |"
    yield f"| all | {sum(account.outcomes.values())} |"
    yield from (f"| {outcome} | {account.outcomes[outcome]} |" for outcome in _OUTCOMES)
    yield from (f"| fault: {name} | {count} |" for name, count in sorted(account.faults.items()))
    yield ""
    names = sorted({name.partition(" of ")[0] for mark in account.marks for name in mark if name != _AFTER})
    yield f"| MB after | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for mark in account.marks:
        most = [max((mb for each, mb in mark.items() if each.startswith(name)), default=0) for name in names]
        yield f"| {mark[_AFTER]} requests | {' | '.join(map(str, most))} |"
    yield from (f"wrong: {wrong}" for wrong in account.wrong)
