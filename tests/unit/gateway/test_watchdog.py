from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.dispatch.jobs import JobState
from gateway.dispatch.watchdog import Facts, Patience, suspicion, verdict
from shared.registry import Fleet, ModelRecord
from tests.support.fleet import fleet_of, host

FLEET = fleet_of("m")
WORKER = FLEET.workers[0]
PATIENCE = Patience()
LONG_S = PATIENCE.silence_s + 0.1


def code_of(fleet: Fleet = FLEET, *, status: str | None = None, claimed_by: str = "", **fields: Any) -> str:
    """The verdict's error code, empty while there is hope."""
    job = None if status is None else JobState(status=status, worker=claimed_by)
    defaults = {"model": "m", "remaining_s": 100.0, "silent_s": LONG_S, "unheard_s": LONG_S}
    error = verdict(Facts(**defaults | fields, job=job), fleet, PATIENCE)
    return "" if error is None else error.code


def test_a_request_whose_worker_lives_has_hope_however_long_it_is_silent() -> None:
    assert code_of(worker=WORKER.worker, epoch="e1", status="started", silent_s=1000.0) == ""


def test_a_request_ends_with_its_deadline() -> None:
    assert code_of(remaining_s=0.0) == "deadline_exceeded"


def test_a_dead_workers_requests_fail() -> None:
    assert code_of(Fleet(), worker=WORKER.worker, epoch="e1") == "worker_lost"


def test_a_worker_that_came_back_in_a_new_life_is_not_the_one_that_held_the_request() -> None:
    assert code_of(worker=WORKER.worker, epoch="e0") == "worker_lost"


def test_a_missing_lease_alone_does_not_fail_a_request_that_is_still_answered() -> None:
    assert code_of(Fleet(), worker=WORKER.worker, epoch="e1", unheard_s=0.5) == ""


def test_a_worker_that_was_found_dead_is_not_waited_for() -> None:
    heard = {"silent_s": 0.5, "unheard_s": 0.5}
    assert code_of(Fleet(), worker=WORKER.worker, epoch="e1", status="failed", **heard) == "worker_lost"
    assert code_of(Fleet(), worker=WORKER.worker, epoch="e1", status="started", **heard) == ""
    assert code_of(worker=WORKER.worker, epoch="e1", status="failed", **heard) == ""


def test_a_worker_that_died_between_claim_and_first_word_is_noticed() -> None:
    assert code_of(Fleet(), status="started", claimed_by="gone") == "worker_lost"
    assert code_of(status="started", claimed_by=WORKER.worker) == ""


def doubt(fleet: Fleet = FLEET, *, claimed_by: str = "", unheard_s: float = 0.0, worker: str = "") -> str:
    job = JobState(status="started", worker=claimed_by) if claimed_by else None
    facts = Facts(
        model="m", remaining_s=100.0, silent_s=unheard_s, unheard_s=unheard_s, worker=worker, epoch="e1", job=job
    )
    error = suspicion(facts, fleet, PATIENCE)
    return "" if error is None else str(error.details["worker"])


def test_a_worker_that_is_not_heard_is_suspected_while_its_lease_still_lives() -> None:
    assert doubt(worker=WORKER.worker, unheard_s=PATIENCE.suspicion_s + 0.1) == WORKER.worker
    assert doubt(worker=WORKER.worker, unheard_s=PATIENCE.suspicion_s - 0.1) == ""
    assert doubt(claimed_by=WORKER.worker, unheard_s=PATIENCE.suspicion_s + 0.1) == WORKER.worker


def test_a_request_that_waits_suspects_nobody() -> None:
    assert doubt(unheard_s=1000.0) == ""


def test_a_worker_that_says_that_its_engine_hangs_is_suspected_however_often_it_beats() -> None:
    hanging = Fleet(workers=(replace(WORKER, state="stalled"),))
    assert doubt(hanging, worker=WORKER.worker, unheard_s=0.1) == WORKER.worker
    assert doubt(worker=WORKER.worker, unheard_s=0.1) == ""


def test_a_job_that_redis_forgot_before_anybody_took_it_is_lost() -> None:
    assert code_of(status="") == "broker_unavailable"


def test_a_job_that_redis_forgot_while_a_worker_runs_it_is_not_lost() -> None:
    assert code_of(status="", worker=WORKER.worker, epoch="e1") == ""


def test_a_job_that_was_just_submitted_is_given_time() -> None:
    assert code_of(status="", silent_s=0.1, unheard_s=0.1) == ""


@pytest.mark.parametrize("status", ["canceled", "stopped"])
def test_a_job_that_an_operator_cancelled_ends(status: str) -> None:
    assert code_of(status=status) == "cancelled"


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_an_answer_whose_end_never_came_fails(status: str) -> None:
    assert code_of(status=status, worker=WORKER.worker, epoch="e1", unheard_s=0.1) == "worker_lost"


def test_a_queued_job_waits_while_somebody_may_load_its_model() -> None:
    assert code_of(status="queued", unserved_s=0.0) == ""
    assert code_of(Fleet(), status="queued", unserved_s=PATIENCE.unserved_s - 1) == ""


def test_a_queued_job_that_nobody_serves_any_more_is_refused_with_a_time_to_try_again() -> None:
    job = JobState(status="queued", worker="")
    facts = Facts(model="m", remaining_s=9, silent_s=20, unheard_s=20, unserved_s=PATIENCE.unserved_s + 1, job=job)
    error = verdict(facts, Fleet(), PATIENCE)
    assert error is not None
    assert error.code == "overloaded"
    assert error.retry_after_s


@pytest.mark.parametrize(
    ("execution_ttl_s", "silence_s", "broker_away_s"),
    [(6.0, 3.0, 12.0), (60.0, 3.0, 12.0), (4.0, 2.0, 8.0), (1.0, 1.5, 2.0)],
)
def test_hope_lasts_no_longer_than_what_redis_remembers_of_running_jobs(
    execution_ttl_s: float, silence_s: float, broker_away_s: float
) -> None:
    patience = Patience.of(execution_ttl_s)
    assert (patience.silence_s, patience.broker_away_s) == (silence_s, broker_away_s)


def test_a_queued_job_whose_model_failed_to_load_says_why() -> None:
    fleet = Fleet(hosts=(host(ModelRecord(id="m", state="failed", reason="no weights")),))
    assert code_of(fleet, status="queued") == "model_unavailable"


def test_a_request_for_a_model_without_memory_hopes_for_a_while_that_some_is_freed() -> None:
    record = ModelRecord(id="m", state="no_memory", reason="too big", needed_bytes=60, limit_bytes=100)
    fleet = Fleet(hosts=(host(record),))
    assert code_of(fleet, status="queued") == ""
    assert code_of(fleet, status="queued", silent_s=PATIENCE.unserved_s + 0.1) == "no_memory"
    hopeless = Fleet(hosts=(host(replace(record, needed_bytes=101)),))
    assert code_of(hopeless, status="queued") == "model_unavailable"
