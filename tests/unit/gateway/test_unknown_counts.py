"""Counts that an engine does not know break nothing on their way: no answer's form, no metric, no log."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import redis.asyncio

from gateway.dialects.registry import DIALECTS
from gateway.dispatch.fleet import FleetWatcher
from gateway.metrics import Metrics, RequestRecord
from shared.events import Finished, Started, TextDelta, Usage
from tests.support.names import NAMES
from tests.support.sealed import KEYRING
from tests.unit.gateway.dialects.answers import REPLIES, context
from worker.serving.reports import Totals

UNKNOWN = Usage(input_tokens=None, cached_tokens=None, restored_tokens=None, output_tokens=None, reasoning_tokens=None)
ANSWER = (Started(usage=UNKNOWN), TextDelta(text="hi"), Finished(reason="stop", usage=UNKNOWN))


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_every_dialect_renders_them(name: str) -> None:
    renderer = REPLIES[name]().stream(context())
    said = b"".join([renderer.start(), *(renderer.feed(event) for event in ANSWER)])
    assert b'_tokens":null' not in said


def test_metrics_leave_out_what_is_unknown() -> None:
    metrics = Metrics(FleetWatcher(redis.asyncio.Redis(), NAMES, KEYRING))
    record = RequestRecord(time.monotonic())
    record.note(ANSWER)
    assert record.cache_class == "cold"
    metrics.finished("m", record)
    assert metrics.registry.get_sample_value("gw_prompt_tokens_count", {"model": "m"}) in (None, 0.0)


def test_a_worker_adds_up_what_is_known() -> None:
    totals = Totals()
    totals.count(None, UNKNOWN, None, is_returned=False)
    totals.count(None, replace(UNKNOWN, output_tokens=4), None, is_returned=False)
    assert (totals.finished, totals.input_tokens, totals.output_tokens) == (2, 0, 4)
