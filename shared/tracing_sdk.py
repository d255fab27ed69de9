"""Spans as OpenTelemetry's SDK makes them. Imported only where that is installed, and wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.spans import Kind, Value, moment_ns

_KINDS: Final[Mapping[Kind, SpanKind]] = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER}
_FIELD: Final = "traceparent"
_CONTEXTS: Final = TraceContextTextMapPropagator()


def exporting_provider(part: str, release: str) -> TracerProvider:
    """`OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before the name that is ours."""
    resource = Resource.create({"service.version": release})
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": f"mlx-gateway-{part}"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Recorder:
    """Begins spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("mlx-gateway")

    def begin(self, name: str, kind: Kind, parent: str, began_s: float) -> RecordedSpan:
        context = _CONTEXTS.extract({_FIELD: parent}) if parent else None
        span = self._tracer.start_span(name, context=context, kind=_KINDS[kind], start_time=moment_ns(began_s))
        return RecordedSpan(self._tracer, span)


class RecordedSpan:
    """See `shared.spans.Span`."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    @property
    def traceparent(self) -> str:
        carrier: dict[str, str] = {}
        _CONTEXTS.inject(carrier, self._context)
        return carrier.get(_FIELD, "")

    def stage(self, name: str, began_s: float, ended_s: float) -> None:
        span = self._tracer.start_span(name, context=self._context, start_time=moment_ns(began_s))
        span.end(end_time=moment_ns(max(began_s, ended_s)))

    def end(self, name: str, told: Mapping[str, Value | None], *, error: str = "", text: str = "") -> None:
        self._span.update_name(name)
        self._span.set_attributes({key: value for key, value in told.items() if value is not None})
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, text or error))
        self._span.end()
