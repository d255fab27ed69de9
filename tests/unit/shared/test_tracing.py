"""Spans: when they are wanted, whose trace they are part of, what is said where nothing can send them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import opentelemetry.semconv._incubating.attributes.gen_ai_attributes as conventions
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.config import wants_spans
from shared.spans import NO_SPAN
from shared.tracing import NO_TRACER, Tracer, build_tracer, missing_for_spans
from tests.support.processes import REPOSITORY

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


class Kept:
    """A tracer, and what it has told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = Tracer(self.provider)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.tracer.close()


@pytest.mark.parametrize(
    ("environ", "are_wanted"),
    [
        ({}, False),
        (WHERE, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({**WHERE, "OTEL_SDK_DISABLED": "true"}, False),
        ({**WHERE, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_SERVICE_NAME": "gateway"}, False),
    ],
)
def test_spans_are_wanted_by_opentelemetrys_own_variables(environ: Mapping[str, str], are_wanted: bool) -> None:
    assert wants_spans(environ) is are_wanted


def test_without_a_collector_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WHERE:
        monkeypatch.delenv(name, raising=False)
    tracer = build_tracer("gateway")
    assert tracer is NO_TRACER
    assert tracer.begin("chat", "server", parent=PARENT) is NO_SPAN
    assert NO_SPAN.traceparent == ""


def test_what_is_missing_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHERE.items():
        monkeypatch.setenv(name, value)
    (told,) = missing_for_spans(is_there=lambda module: module != "opentelemetry.exporter.otlp.proto.http")
    assert "install" in told
    assert "otel" in told
    assert missing_for_spans(is_there=lambda _: True) == []
    monkeypatch.setattr("shared.tracing.missing_for_spans", lambda: [told])
    assert build_tracer("gateway") is NO_TRACER


def test_a_span_is_part_of_the_trace_that_it_is_given(kept: Kept) -> None:
    span = kept.tracer.begin("chat", "server", parent=PARENT)
    assert span.traceparent.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    inner = kept.tracer.begin("generate", "consumer", parent=span.traceparent)
    inner.end("generate by w", {})
    span.end("chat m", {"gen_ai.request.model": "m", "gen_ai.request.seed": None})
    below, above = kept.spans
    assert below.parent is not None
    assert above.context is not None
    assert below.parent.span_id == above.context.span_id
    assert above.name == "chat m"
    assert dict(above.attributes or {}) == {"gen_ai.request.model": "m"}


@pytest.mark.parametrize("parent", ["", "nonsense", "00-0-0-01", "ff-" + PARENT[3:], "00-" + "0" * 32 + PARENT[35:]])
def test_a_wrong_parent_counts_as_none(kept: Kept, parent: str) -> None:
    kept.tracer.begin("chat", "server", parent=parent).end("chat m", {})
    (span,) = kept.spans
    assert span.parent is None


def test_a_stage_has_the_times_that_it_took(kept: Kept) -> None:
    now_s = time.monotonic()
    span = kept.tracer.begin("chat", "server", began_s=now_s - 3)
    span.stage("prefill", now_s - 2.5, now_s - 0.5)
    span.end("chat m", {}, error="internal", text="no luck")
    stage, whole = kept.spans
    assert stage.end_time is not None
    assert stage.start_time is not None
    assert (stage.end_time - stage.start_time) / 1e9 == pytest.approx(2.0, abs=0.05)
    assert (whole.attributes or {})["error.type"] == "internal"
    assert not whole.status.is_ok


def test_an_end_waits_for_no_collector_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.tracing._LAST_S", 0.05)

    class Stuck(TracerProvider):
        def shutdown(self) -> None:
            time.sleep(30)

    began_s = time.monotonic()
    Tracer(Stuck(shutdown_on_exit=False)).close()
    assert time.monotonic() - began_s < 20


def test_the_names_are_those_of_the_conventions() -> None:
    known = {value for value in vars(conventions).values() if isinstance(value, str)}
    files = [Path(REPOSITORY) / "gateway/trace/spans.py", Path(REPOSITORY) / "worker/serving/spans.py"]
    used = {name for path in files for name in re.findall(r'"(gen_ai\.[\w.]+)"', path.read_text())}
    assert len(used) > 10
    assert used - known == set()
