"""The line of the log that says how a request ended."""

from __future__ import annotations

import logging

from shared.errors import GatewayError
from worker.serving.attempt import Attempt

log = logging.getLogger(__name__)


def log_end(work: Attempt, error: GatewayError | None, now_s: float) -> None:
    """`now_s` is the monotonic clock's."""
    usage = work.usage
    log.info(
        "to %s %s attempt %d %s: %s prompt tokens (%s cached), %s generated; begun after %.0f ms, %.0f ms in all",
        work.kind.name,
        work.ticket.request_id,
        work.ticket.attempt,
        _how_ended(work, error),
        *("unknown" if n is None else n for n in (usage.input_tokens, usage.cached_tokens, usage.output_tokens)),
        (work.first_s - work.taken_s) * 1000 if work.first_s else 0.0,
        (now_s - work.taken_s) * 1000,
    )


def _how_ended(work: Attempt, error: GatewayError | None) -> str:
    if error is None:
        return "finished"
    how = "ended" if work.returned is None else f"returned ({work.returned})"
    return f"{how} with {error.code}: {error.message}"
