"""A request's span: begun when it comes, ended with what its story knows. Without the client's words, as the story.

Names are those of OpenTelemetry's conventions for generative AI, and `mlx_gateway.…` for what they have none for.
Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from starlette.types import Scope

from gateway.dispatch.attempt import Attempt
from gateway.metrics import RequestRecord
from gateway.trace.story import Story, worker_of
from shared.errors import GatewayError
from shared.pieces import session_digest
from shared.request import GenerateRequest
from shared.spans import NO_SPAN, Span, Value
from shared.tracing import Tracer

PROVIDER: Final = "mlx-gateway"
_FIELD: Final = b"traceparent"
_LONGEST: Final = 256  # characters; 55 are enough
_ENDED_WELL: Final = ("ok", "cancelled")


def begin_span(tracer: Tracer, scope: Scope, began_s: float) -> Span:
    """Part of the client's own trace, where it says which."""
    if not tracer.is_on:
        return NO_SPAN
    parent = next((value for name, value in scope["headers"] if name == _FIELD), b"")
    return tracer.begin("chat", "server", parent=parent[:_LONGEST].decode("latin-1"), began_s=began_s)


def end_span(story: Story) -> None:
    """With the stages of its way."""
    if story.span is NO_SPAN:
        return
    _tell_stages(story.span, story.record)
    model = story.request.model if story.request is not None else ""
    error = "" if story.outcome in _ENDED_WELL else story.error.code if story.error else story.outcome
    text = "" if story.error is None else story.error.message
    name = f"{operation_of(story.route)} {model}".strip()
    story.span.end(name, _asked(story) | _answered(story), error=error, text=text)


def operation_of(route: str) -> str:
    return "text_completion" if route == "completions" else "chat"


def _tell_stages(span: Span, record: RequestRecord) -> None:
    moment_s, ended_s = record.started_s, time.monotonic()
    for name, seconds in record.stages:
        span.stage(name, moment_s, moment_s + seconds)
        moment_s += seconds
    moments = [("wait", record.ran_s), ("prefill", record.first_token_s)]
    for name, until_s in moments:
        if until_s is not None:
            span.stage(name, moment_s, until_s)
            moment_s = max(moment_s, until_s)
    if record.first_token_s is not None:
        span.stage("decode", moment_s, ended_s)


def _asked(story: Story) -> dict[str, Value | None]:
    if story.parsed is None:
        return {"gen_ai.operation.name": operation_of(story.route), "gen_ai.provider.name": PROVIDER}
    request = story.parsed.request
    sampling = request.sampling
    return {
        "gen_ai.operation.name": operation_of(story.route),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": request.model,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.stream": story.parsed.stream,
        "gen_ai.request.choice.count": story.parsed.choices if story.parsed.choices > 1 else None,
        "gen_ai.conversation.id": session_digest(request.session) or None,
        "mlx_gateway.class": request.priority,
        "mlx_gateway.route": story.route,
    }


def _answered(story: Story) -> dict[str, Value | None]:
    usage, record = story.record.usage, story.record
    attempt: Attempt | None = None if story.dispatch is None else story.dispatch.attempt
    first_s = None if record.first_token_s is None else record.first_token_s - record.started_s
    return {
        "gen_ai.response.id": story.id,
        "gen_ai.response.model": story.request.model if story.request is not None else None,
        "gen_ai.response.time_to_first_chunk": first_s,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "mlx_gateway.outcome": story.outcome,
        "mlx_gateway.worker": worker_of(story.dispatch) or None,
        "mlx_gateway.placement": None if attempt is None else attempt.place.reason,
        "mlx_gateway.attempts": None if attempt is None else attempt.number,
        "mlx_gateway.restored_tokens": usage.restored_tokens,
    }


@contextmanager
def traced_beside(
    tracer: Tracer, scope: Scope, request: GenerateRequest, operation: str, read_tokens: Callable[[], int]
) -> Iterator[GenerateRequest]:
    """A span for as long as the block takes, and the request as it goes to workers. `read_tokens` says in the end how
    many were read."""
    span, error = begin_span(tracer, scope, scope["state"]["started_s"]), ("", "")
    try:
        yield replace(request, traceparent=span.traceparent)
    except GatewayError as failed:
        error = (failed.code, failed.message)
        raise
    finally:
        told: dict[str, Value | None] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": request.model,
            "gen_ai.response.id": request.id,
            "gen_ai.usage.input_tokens": read_tokens(),
        }
        span.end(f"{operation} {request.model}", told, error=error[0], text=error[1])
