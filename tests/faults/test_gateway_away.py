"""A gateway dies in the middle of an answer: the client's retry at the other one goes to where its conversation is, or,
with an `Idempotency-Key`, joins what runs there."""

from __future__ import annotations

import os
import secrets
import signal

import orjson
import pytest

from tests.faults.cases import Case, ask
from tests.faults.client import Asked
from tests.faults.fleet import PACED, Fleet
from tests.support.processes import wait_until
from tests.support.queues import running_jobs

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]
_MOST_COMPUTED = 200


def _uncached(asked: Asked) -> int:
    usage = orjson.loads(asked.events[0][1])["message"]["usage"]
    return int(usage["input_tokens"])  # what this dialect counts apart is what was cached


def test_the_retry_is_placed_at_home_and_computes_little_and_the_first_ones_work_ends(whole_fleet: Fleet) -> None:
    one, other = whole_fleet.gateways
    prompt = f"{secrets.token_hex(4)} " + " ".join(f"w{number}" for number in range(800))
    case, session = Case("long", PACED, f"{prompt}\necho:words 600"), secrets.token_hex(8)
    first = ask(whole_fleet, one, case, session)
    wait_until(lambda: first.deltas_s(), "it has begun")
    one.kill_all()
    first.join(20)
    retry = ask(whole_fleet, other, case, session, {"x-stainless-retry-count": "1"})
    wait_until(lambda: retry.deltas_s(), "it goes on")
    assert retry.worker == first.worker
    assert _uncached(retry) <= _MOST_COMPUTED
    wait_until(lambda: len(running_jobs(whole_fleet.client, PACED)) == 1, "the first one's work is cancelled")
    retry.join(60)
    assert retry.answer().text == "<text>" + " ".join(f"word{number}" for number in range(600))
    whole_fleet.heal()


def test_a_retry_that_has_joined_goes_on_when_the_worker_dies_too(whole_fleet: Fleet) -> None:
    one, other = whole_fleet.gateways
    case, session, key = Case("long", PACED, "echo:words 300"), secrets.token_hex(8), secrets.token_hex(8)
    first = ask(whole_fleet, one, case, session, {"idempotency-key": key})
    wait_until(lambda: len(first.deltas_s()) > 20, "it has begun")
    jobs = running_jobs(whole_fleet.client, PACED)
    one.kill_all()
    first.join(20)
    retry = ask(whole_fleet, other, case, session, {"idempotency-key": key})
    wait_until(lambda: len(retry.deltas_s()) > 20, "it goes on")
    assert retry.worker == first.worker
    assert running_jobs(whole_fleet.client, PACED) == jobs
    os.kill(whole_fleet.lease(first.worker).pid, signal.SIGKILL)
    retry.join(60)
    assert retry.answer().is_whole
    assert retry.answer().text == "<text>" + " ".join(f"word{number}" for number in range(300))
    whole_fleet.heal()
