"""What becomes of a request when its worker is in trouble, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dispatch.decision import MOST_ATTEMPTS, MOST_RETURNS, Decision, Standing, decide
from shared.errors import (
    DeadlineExceededError,
    GatewayError,
    InternalError,
    OverloadedError,
    PromptTooLongError,
    RequestCancelledError,
    WireError,
    WorkerLostError,
)

LOST = WorkerLostError("gone", worker="w")
READY: dict[str, Any] = {"fault": LOST, "remaining_s": 10.0, "has_place": True}
DELIVER, TRY, GO_ON, FAIL = Decision


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fault": None}, DELIVER),
        ({"fault": None, "attempts": MOST_ATTEMPTS, "remaining_s": -1.0}, DELIVER),
        ({}, TRY),
        ({"fault": WireError("another secret")}, TRY),
        ({"attempts": MOST_ATTEMPTS - 1}, TRY),
        ({"attempts": MOST_ATTEMPTS}, FAIL),
        ({"remaining_s": 0.0}, FAIL),
        ({"has_place": False}, FAIL),
        ({"has_answer": True}, FAIL),
        ({"has_answer": True, "can_resume": True}, GO_ON),
        ({"has_answer": True, "can_resume": True, "remaining_s": -100.0}, GO_ON),
        ({"has_answer": True, "can_resume": True, "has_place": False}, FAIL),
        ({"has_answer": True, "can_resume": True, "attempts": MOST_ATTEMPTS}, FAIL),
        ({"can_resume": True}, TRY),
        ({"is_returned": True, "fault": OverloadedError("no place"), "returns": 1}, TRY),
        ({"is_returned": True, "attempts": MOST_ATTEMPTS, "returns": MOST_RETURNS}, TRY),
        ({"is_returned": True, "returns": MOST_RETURNS + 1}, FAIL),
        ({"is_returned": True, "returns": 1, "has_answer": True, "can_resume": True}, GO_ON),
        ({"is_returned": True, "returns": 1, "has_place": False}, FAIL),
        ({"is_returned": True, "returns": 1, "remaining_s": 0.0}, FAIL),
    ],
)
def test_a_request_moves_only_where_another_worker_can_still_give_the_same_answer(
    fields: dict[str, Any], expected: Decision
) -> None:
    assert decide(Standing(**READY | fields)) is expected


@pytest.mark.parametrize(
    "fault",
    [
        DeadlineExceededError("late"),
        RequestCancelledError("an operator did"),
        PromptTooLongError.of(9, 8),
        OverloadedError("full"),
        InternalError("a bug"),
    ],
)
def test_what_is_not_the_workers_trouble_stays_where_it_is(fault: GatewayError) -> None:
    assert decide(Standing(**READY | {"fault": fault})) is FAIL
