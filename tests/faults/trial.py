"""One wave and one fault: asked, struck, read to the end, judged; and whether anything is left behind."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import time
from dataclasses import dataclass

from tests.faults.cases import Case, Wave, ask, filler
from tests.faults.client import Answer, Asked
from tests.faults.faults import Fault, Target
from tests.faults.fleet import PACED, Fleet
from tests.support.names import NAMES
from tests.support.processes import wait_until

ANSWER_S = 60.0
_GONE_S = 10.0
_IN_FLIGHT_S = 0.5  # for which a fault may leave what was on its way
RETRYABLE = frozenset({"overloaded_error", "api_error", "timeout_error", "server_error", "worker_lost", "overloaded"})


class NotInPlaceError(Exception):
    """The requests did not come to be where the fault should meet them, as on a machine that is busy with others."""


@dataclass(frozen=True)
class Verdict:
    """What became of one case. `kind` is survived, error (the right one), or wrong. `lost` and `doubled` are
    characters of the answer that were left out or said twice; `next_s` the time from the fault to the next token that
    the fault held up, None where it held up none."""

    stage: str
    fault: str
    kind: str
    lost: int = 0
    doubled: int = 0
    next_s: float | None = None
    why: str = ""


def try_fault(fleet: Fleet, wave: Wave, fault: Fault, expected: dict[Case, Answer]) -> list[Verdict]:
    """Raises `AssertionError` when the fleet does not come back, or something is left behind."""
    asked, target = _put_in_place(fleet, wave)
    struck_s = time.monotonic()
    fault.strike(fleet, target)
    if fault.is_gateway:
        asked = [_again(fleet, case, each) for case, each in zip(wave.cases, asked, strict=True)]
    for each in asked:
        each.join(ANSWER_S)
    fault.undo(fleet, target)
    found = [
        _judge(fault, case, each, expected[case], wave, struck_s) for case, each in zip(wave.cases, asked, strict=True)
    ]
    fleet.heal()
    _check_nothing_stays(fleet, f"{fault.name}, {wave.name}")
    return found


def _check_nothing_stays(fleet: Fleet, what: str) -> None:
    """What ends by itself may take its time (RQ's executions of a worker that nobody buried)."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not leftovers(fleet), "nothing is left", deadline_s=_GONE_S, every_s=0.2)
        return
    raise AssertionError(f"{what}: {leftovers(fleet)}")


def _put_in_place(fleet: Fleet, wave: Wave) -> tuple[list[Asked], Target]:
    """The wave's requests, all at one worker and where they should be."""
    for _ in range(5):
        session, gateway = secrets.token_hex(8), fleet.gateways[0]
        asked = [ask(fleet, gateway, wave.cases[0], session)]
        wait_until(lambda: asked[0].request_id or not asked[0].is_alive(), "it is placed")  # noqa: B023
        aside = filler(fleet, fleet.gateways[1]) if len(wave.cases) > 1 and wave.model == PACED else None
        for case in wave.cases[1:]:
            asked.append(ask(fleet, gateway, case, session))
            wait_until(lambda: asked[-1].request_id or not asked[-1].is_alive(), "it is placed")  # noqa: B023
        with contextlib.suppress(AssertionError):
            wait_until(lambda: wave.reached(fleet, asked), wave.name, deadline_s=6, every_s=0.002)  # noqa: B023
        is_together = len({each.worker for each in asked}) == 1 and all(each.is_alive() for each in asked)
        if aside is not None:
            aside.leave()
        if is_together and wave.reached(fleet, asked):
            return asked, Target(asked[0].worker, fleet.lease(asked[0].worker).pid)
        for each in asked:
            each.leave()
        fleet.heal()
    raise NotInPlaceError(f"{wave.name}: the requests could not be put in place: {[each.worker for each in asked]}")


def _again(fleet: Fleet, case: Case, first: Asked) -> Asked:
    """What a client does whose gateway is gone."""
    first.join(ANSWER_S)
    return ask(fleet, fleet.gateways[1], case, first.headers["session_id"], {"x-stainless-retry-count": "1"})


def _judge(fault: Fault, case: Case, asked: Asked, expected: Answer, wave: Wave, struck_s: float) -> Verdict:
    answer = asked.answer()
    lost, doubled = differences(answer, expected)
    waited_s = None if fault.is_gateway or wave.is_before else next_s(asked.deltas_s(), struck_s)
    if not asked.is_alive() and answer == expected:
        kind = "retried" if fault.is_gateway else "survived"
        return Verdict(case.stage, fault.name, kind, next_s=waited_s)
    if answer.error in RETRYABLE and not lost and not doubled:
        return Verdict(case.stage, fault.name, "error", next_s=waited_s, why=asked.refusal or asked.events[-1][1])
    why = f"{answer.error or answer.broken or 'another answer'}; {answer.text[-200:]!r}"
    return Verdict(case.stage, fault.name, "wrong", lost, doubled, waited_s, why)


def differences(answer: Answer, expected: Answer) -> tuple[int, int]:
    """Characters left out and said twice, as far as the answer goes: at the first place where they part, whichever of
    the two explains what follows."""
    got, wanted = answer.text, expected.text
    same = next((n for n, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    if same == len(got) and (not answer.is_whole or len(got) == len(wanted)):
        return 0, 0
    rest = got[same : same + 24]
    ahead = wanted.find(rest, same)
    if rest and ahead >= 0:
        return ahead - same, 0
    if rest and (behind := wanted.rfind(rest, 0, same + len(rest))) >= 0:
        return 0, same - behind
    return max(0, len(wanted) - len(got)), max(0, len(got) - len(wanted))


def next_s(deltas_s: list[float], struck_s: float) -> float | None:
    """Until the end of the longest wait between tokens that goes on when the fault comes or begins with it."""
    waits = [(later - earlier, later) for earlier, later in itertools.pairwise(deltas_s)]
    meets = [wait for wait in waits if wait[1] > struck_s and wait[1] - wait[0] < struck_s + _IN_FLIGHT_S]
    return max(meets)[1] - struck_s if meets else None


_PASSING = ("ended", "ran", "why", "home", "log", "bell", "placed", "soon", "res", "disk", "day")


def leftovers(fleet: Fleet) -> list[str]:
    """What should be gone by now: bodies and executions; keys of ours that would stay for ever; records of workers that
    are no more; requests under way."""
    client, alive = fleet.client, {lease.worker for lease in fleet.leases()}
    found = []
    for key in sorted(name.decode() for name in client.scan_iter()):
        kind = key.removeprefix(f"{NAMES.deployment}:").partition(":")[0]
        if key.startswith("rq:execution") or kind == "req":
            found.append(key)
        elif key.startswith(f"{NAMES.deployment}:") and kind in _PASSING and client.ttl(key) == -1:
            found.append(f"{key} for ever")
        elif key.startswith("rq:worker:") and key.removeprefix("rq:worker:") not in alive:
            found += [key] if client.ttl(key) == -1 else []  # RQ's record of a worker that nobody buried ends by itself
    wanted = len(fleet.gateways)
    channels = list(client.pubsub_channels("*"))  # type: ignore[union-attr]
    gateways = {
        channel.split(b":")[2] for channel in channels if channel.startswith(f"{NAMES.deployment}:gw:".encode())
    }
    return found + ([] if len(gateways) == wanted else [f"subscriptions of {len(gateways)} gateways"])
