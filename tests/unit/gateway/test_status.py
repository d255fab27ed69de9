"""What `/ready` and `/status` say of a fleet."""

from __future__ import annotations

import pytest

from gateway.http.status import render_readiness
from gateway.overview import Running, render_overview
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
        ({"a": "unloaded"}, True),
        ({"a": "unloaded", "b": "loading"}, False),
        ({"a": "no_memory"}, False),
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
    states = fleet(a="ready", b="available", c="loading", d="failed", e="unloaded", f="no_memory")
    told = render_readiness(states, is_connected=True)
    assert (told["models"], told["available"]) == (["a"], ["b", "e"])
    assert (told["loading"], told["failed"], told["no_memory"]) == ({"c": 0.0}, {"d": ""}, {"f": ""})


def test_the_status_of_a_model_without_memory_says_what_it_needs_and_what_is_there() -> None:
    refused = ModelRecord(id="m", state="no_memory", reason="too big", needed_bytes=9, free_bytes=0, limit_bytes=10)
    pinned = ModelRecord(id="p", state="ready", is_pinned=True, load_done=1.0)
    told = render_overview(Fleet(hosts=(host(refused, pinned),)))["hosts"][0]["models"]
    assert told == [
        {
            "id": "m",
            "state": "no_memory",
            "reason": "too big",
            "needed_bytes": 9,
            "limit_bytes": 10,
            "free_bytes": 0,
        },
        {"id": "p", "state": "ready", "pinned": True},
    ]


def test_rates_of_a_worker_that_does_nothing_are_nothing() -> None:
    rates = {"decode_tokens_per_s": 42.0, "prefill_tokens_per_s": 900.0, "waiting_tokens": 77}

    def told(running: float, waiting: float) -> tuple[float, float, int]:
        metrics = {"running": running, "waiting": waiting}
        (worker,) = render_overview(Fleet(workers=(lease("m", metrics=metrics, **rates),)))["workers"]
        return worker["decode_tokens_per_s"], worker["prefill_tokens_per_s"], worker["waiting_tokens"]

    assert told(1, 1) == (42.0, 900.0, 77)
    assert told(1, 0) == (42.0, 0, 77)
    assert told(0, 0) == (0, 0, 0)


def test_a_request_under_way_says_how_far_its_prompt_is_and_nothing_of_its_words() -> None:
    running = Running(
        id="req_1",
        model="m",
        worker="host.m.e1",
        priority="interactive",
        stage="prefill",
        prefill_done=0.25,
        prompt_tokens=4000,
        output_tokens=0,
        age_s=3.04,
    )
    (told,) = render_overview(Fleet(), running=[running])["running"]
    assert told == {
        "id": "req_1",
        "model": "m",
        "worker": "host.m.e1",
        "class": "interactive",
        "stage": "prefill",
        "prefill_done": 0.25,
        "prompt_tokens": 4000,
        "output_tokens": 0,
        "age_s": 3.0,
    }


def test_of_very_many_requests_some_are_told() -> None:
    waits = Running(
        id="r", model="m", worker="", priority="batch", stage="queued", prefill_done=None, prompt_tokens=0,
        output_tokens=0, age_s=1,
    )  # fmt: skip
    told = render_overview(Fleet(), running=[waits] * 1000)["running"]
    assert len(told) == 200
    assert "prefill_done" not in told[0]
