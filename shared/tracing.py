"""Spans for OpenTelemetry, where somebody collects them (`OTEL_EXPORTER_OTLP_ENDPOINT`); nothing at all elsewhere.

The SDK comes with the extra `otel` and reads its own variables: where to, with which headers, which part is sampled.
A span goes from process to process as W3C's `traceparent`, a client's own included.
Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/, https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from shared.config import wants_spans
from shared.extras import install_line, is_installed
from shared.spans import NO_SPAN, Kind, Span

logger = logging.getLogger(__name__)

_NEEDED: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_LAST_S: Final = 2.0  # for what is not sent yet when the process ends


class Tracer:
    """`provider` is the SDK's; None makes no spans."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._begin: Callable[[str, Kind, str, float], Span] | None = None
        if provider is not None:
            from shared.tracing_sdk import Recorder  # needs the extra

            self._begin = Recorder(provider).begin

    @property
    def is_on(self) -> bool:
        return self._begin is not None

    def begin(self, name: str, kind: Kind, *, parent: str = "", began_s: float = 0.0) -> Span:
        """`parent` is a traceparent, of which a wrong one counts as none."""
        if self._begin is None:
            return NO_SPAN
        return self._begin(name, kind, parent, began_s or time.monotonic())

    def close(self) -> None:
        """Send what is left, for a moment: who collects may be away."""
        if self._provider is not None:
            sender = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
            sender.start()
            sender.join(_LAST_S)


NO_TRACER: Final = Tracer()


def build_tracer(part: str) -> Tracer:
    """Of a gateway or a worker, as the environment wants it. Raises nothing: without spans everything else works."""
    if not wants_spans():
        return NO_TRACER
    for text in missing_for_spans():
        logger.warning("%s", text)
        return NO_TRACER
    from shared.tracing_sdk import exporting_provider

    return Tracer(exporting_provider(part, version("mlx-gateway")))


def missing_for_spans(is_there: Callable[[str], bool] = is_installed) -> list[str]:
    """What a person who wants spans is told; nothing where they can be sent."""
    if not wants_spans() or all(map(is_there, _NEEDED)):
        return []
    return [f"spans are wanted (OTEL_EXPORTER_OTLP_…), and what sends them is missing: {install_line('otel')}"]
