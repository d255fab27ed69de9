"""An engine hangs with others' answers in it: they go on elsewhere, long before the worker gives up."""

from __future__ import annotations

import os
import secrets
import signal
import time

import pytest

from tests.faults.cases import Case, ask
from tests.faults.fleet import PACED, Fleet
from tests.faults.trial import Verdict, next_s
from tests.support.processes import wait_until

_SILENT_S = 0.6  # many steps
pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def test_an_answer_goes_on_elsewhere_when_its_engine_hangs(whole_fleet: Fleet, verdicts: list[Verdict]) -> None:
    session = secrets.token_hex(8)
    asked = ask(whole_fleet, whole_fleet.gateways[0], Case("mid-text", PACED, "NEW\necho:words 300"), session)
    wait_until(lambda: len(asked.deltas_s()) > 20, "it has begun")
    pid = whole_fleet.lease(asked.worker).pid
    struck_s = time.monotonic()
    freezing = ask(whole_fleet, whole_fleet.gateways[0], Case("freezes", PACED, "echo:freeze"), session)
    wait_until(lambda: time.monotonic() - asked.deltas_s()[-1] > _SILENT_S, "the engine hangs")
    freezing.leave()  # else it might be given to the other engine, when the machine is so busy that beats come late
    asked.join(40)
    os.kill(pid, signal.SIGKILL)  # it would end itself, but much later
    assert asked.answer().text == "<text>" + " ".join(f"word{number}" for number in range(300))
    verdicts.append(Verdict("mid-text", "engine hangs", "survived", next_s=next_s(asked.deltas_s(), struck_s)))
    whole_fleet.heal()
