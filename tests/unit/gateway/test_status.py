"""What `/ready` says of a fleet."""

from __future__ import annotations

import pytest

from gateway.http.status import render_readiness
from shared.registry import Fleet, ModelRecord, ModelState
from tests.support.fleet import host, lease


def fleet(**states: ModelState) -> Fleet:
    """Models of these states; those that are ready have a worker."""
    workers = tuple(lease(model) for model, state in states.items() if state == "ready")
    return Fleet(workers=workers, hosts=(host(*(ModelRecord(id=m, state=state) for m, state in states.items())),))


@pytest.mark.parametrize(
    ("states", "is_ready"),
    [
        ({"a": "ready"}, True),
        ({"a": "ready", "b": "loading"}, True),
        ({"a": "available"}, True),
        ({"a": "available", "b": "failed"}, True),
        ({"a": "available", "b": "loading"}, False),
        ({"a": "loading"}, False),
        ({"a": "failed"}, False),
        ({}, False),
    ],
)
def test_a_gateway_is_ready_when_a_model_can_answer_now_or_when_asked(
    states: dict[str, ModelState], is_ready: bool
) -> None:
    assert render_readiness(fleet(**states), is_connected=True)["ready"] is is_ready
    assert render_readiness(fleet(**states), is_connected=False)["ready"] is False


def test_each_model_is_told_under_its_state() -> None:
    told = render_readiness(fleet(a="ready", b="available", c="loading", d="failed"), is_connected=True)
    assert (told["models"], told["available"], told["loading"], told["failed"]) == (["a"], ["b"], {"c": 0.0}, {"d": ""})
