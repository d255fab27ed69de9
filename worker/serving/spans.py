"""An attempt's span, told when it has ended, where somebody collects them."""

from __future__ import annotations

import time
from typing import Final

from shared.errors import GatewayError
from shared.tracing import Tracer
from worker.serving.attempt import Attempt

_PROVIDER: Final = "mlx-gateway"
_OPERATIONS: Final = {"generate": "chat", "embed": "embeddings", "transcribe": "transcription", "speak": "speech"}


def tell_span(work: Attempt, error: GatewayError | None, tracer: Tracer, *, worker: str) -> None:
    """Part of the trace that its gateway, or the client, began."""
    if not tracer.is_on or not work.traceparent:
        return
    now_s = time.monotonic()
    span = tracer.begin(work.kind.name, "consumer", parent=work.traceparent, began_s=work.taken_s)
    span.stage("prepare", work.taken_s, work.first_s or now_s)
    if work.first_s:
        span.stage("prefill", work.first_s, work.answered_s or now_s)
    if work.answered_s:
        span.stage("decode", work.answered_s, now_s)
    usage = work.usage
    told = {
        "gen_ai.operation.name": _OPERATIONS.get(work.kind.name, work.kind.name),
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.response.id": work.ticket.request_id,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "mlx_gateway.worker": worker,
        "mlx_gateway.attempt": work.ticket.attempt,
        "mlx_gateway.restored_tokens": usage.restored_tokens,
    }
    is_wrong = error is not None and work.returned is None and error.code != "cancelled"
    wrong = error if is_wrong else None
    span.end(
        f"{work.kind.name} by {worker}",
        told,
        error="" if wrong is None else wrong.code,
        text="" if wrong is None else wrong.message,
    )
