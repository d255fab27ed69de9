"""One request's story, put together as it goes and told once it has ended: for its line in the log, and for its trace.

It is told without the client's words: sizes, roles, times, and a digest in place of the session's name. Only where the
settings ask for everything (`debug` 3) it also has the body and the answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.dialects.base import Parsed
from gateway.dispatch.attempt import Attempt
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.explanation import describe
from gateway.dispatch.lookups import text_bytes_of
from gateway.dispatch.outcome import Outcome
from gateway.metrics import RequestRecord
from gateway.trace.shape import AnswerShape
from shared.errors import GatewayError
from shared.events import known
from shared.pieces import session_digest
from shared.request import GenerateRequest, PackedRequest
from shared.spans import NO_SPAN, Span

SHAPES: Final = 2  # the level of `debug` from which on an answer's shape is told, too
EVERYTHING: Final = 3
_MOST_BODY_BYTES: Final = 256 * 1024
_MOST_NAME: Final = 100


@dataclass(slots=True)
class Story:
    """What is not known yet is None. `asked_s` is Unix time."""

    id: str
    route: str
    debug: int
    record: RequestRecord
    asked_s: float = field(default_factory=time.time)
    parsed: Parsed | None = None
    request: GenerateRequest | None = None
    dispatch: Dispatch | None = None
    outcome: str = "internal"
    error: GatewayError | None = None
    predicted: Outcome | None = None
    body: bytes = b""
    answer: AnswerShape | None = None
    span: Span = NO_SPAN

    def __post_init__(self) -> None:
        if self.debug >= SHAPES:
            self.answer = AnswerShape(keeps_text=self.debug >= EVERYTHING)

    def take_body(self, body: bytes) -> None:
        if self.debug >= EVERYTHING:
            self.body = body[:_MOST_BODY_BYTES]

    # --- the line in the log -------------------------------------------------------------------------------------

    def fields(self) -> dict[str, Any]:
        """Of the line that ends a request; seconds and tokens, None where there was nothing."""
        usage, record, request = self.record.usage, self.record, self.request
        return {
            "request": self.id,
            "outcome": self.outcome,
            "session": session_digest(request.session) if request else "",
            "class": request.priority if request else "",
            "model": request.model if request else "",
            "worker": worker_of(self.dispatch),
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "restored_tokens": usage.restored_tokens,
            "computed_tokens": known(usage.input_tokens) - known(usage.cached_tokens),
            "output_tokens": usage.output_tokens,
            "waited_s": _since(record.ran_s, record.started_s),
            "first_token_s": _since(record.first_token_s, record.started_s),
            "total_s": round(time.monotonic() - record.started_s, 3),
        }

    def line(self, said: dict[str, Any]) -> str:
        """`said` are the `fields`."""
        shared = (
            "" if self.dispatch is None or self.dispatch.request_id == self.id else f" of {self.dispatch.request_id}"
        )
        return (
            f"{said['request']} {said['outcome']}{shared}: session {said['session'] or '-'}, class {said['class']}, "
            f"model {said['model']}, worker {said['worker'] or '-'}; {said['input_tokens']} tokens in "
            f"({said['cached_tokens']} cached, {said['restored_tokens']} of them from disk, {said['computed_tokens']} "
            f"computed), {said['output_tokens']} out; waited {_seconds(said['waited_s'])}, first token after "
            f"{_seconds(said['first_token_s'])}, {said['total_s']:.2f} s in all"
        )

    # --- the trace -----------------------------------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        said = self.fields()
        told: dict[str, Any] = {
            "id": self.id,
            "at_s": round(self.asked_s, 3),
            "route": self.route,
            "outcome": self.outcome,
            "error": "" if self.error is None else self.error.message,
            "came": self._came(),
            "canonical": self._canonical(),
            "attempts": [] if self.dispatch is None else _attempts(self.dispatch),
            "tokens": self._tokens(),
            "seconds": self._seconds(said),
        }
        if self.predicted is not None:
            told["predicted"] = _predicted(self.predicted)
        if self.answer is not None:
            told["answer"] = self.answer.told()
        if self.body:
            told["body"] = self.body.decode(errors="replace")
        return told

    def _came(self) -> dict[str, Any]:
        if self.parsed is None:
            return {}
        request = self.parsed.request
        return {
            "model": request.model[:_MOST_NAME],
            "messages": self.parsed.came,
            "tools": len(request.packed.tools) if isinstance(request, PackedRequest) else len(request.tools),
            "stream": self.parsed.stream,
            "choices": self.parsed.choices,
            "class": request.priority,
            "session": session_digest(request.session),
            "max_tokens": request.sampling.max_tokens,
            "temperature": request.sampling.temperature,
            "schema": request.response_schema is not None,
            "reasoning": request.reasoning.effort or request.reasoning.enabled,
        }

    def _canonical(self) -> dict[str, Any]:
        if self.parsed is None or self.request is None:
            return {}
        return {
            "model": self.request.model,
            "messages": self.parsed.became,
            "text_bytes": text_bytes_of(self.request),
            "warnings": list(dict.fromkeys(self.record.warnings)),
        }

    def _tokens(self) -> dict[str, Any]:
        usage = self.record.usage
        return {
            "input": usage.input_tokens,
            "cached": usage.cached_tokens,
            "restored": usage.restored_tokens,
            "parted_in": usage.parted,
            "output": usage.output_tokens,
            "reasoning": usage.reasoning_tokens,
        }

    def _seconds(self, said: dict[str, Any]) -> dict[str, Any]:
        stages = {stage: round(seconds, 4) for stage, seconds in self.record.stages}
        return {**stages, **{name: said[f"{name}_s"] for name in ("waited", "first_token", "total")}}


def worker_of(dispatch: Dispatch | None) -> str:
    """Who answers, or will."""
    return "" if dispatch is None else dispatch.attempt.worker or dispatch.attempt.place.worker


def _since(moment_s: float | None, began_s: float) -> float | None:
    return None if moment_s is None else round(moment_s - began_s, 3)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _attempts(dispatch: Dispatch) -> list[dict[str, Any]]:
    return [_attempt(each) for each in (*dispatch.past_attempts, dispatch.attempt)]


def _attempt(attempt: Attempt) -> dict[str, Any]:
    place = attempt.place
    candidates = [] if place.prospect is None else [describe(each) for each in (place.prospect, *place.others)]
    told: dict[str, Any] = {
        "number": attempt.number,
        "worker": attempt.worker or place.worker,
        "reason": place.reason,
        "candidates": candidates,
    }
    if attempt.resume is not None:
        told["goes_on_at_token"] = len(attempt.resume.token_ids)
    if attempt.fault is not None:
        told["fault"] = attempt.fault.code
    if attempt.returned is not None:
        told["returned"] = attempt.returned
    return told


def _predicted(outcome: Outcome) -> dict[str, Any]:
    return {
        "waited": round(outcome.predicted_wait_s, 3),
        "first_token": round(outcome.predicted_first_s, 3),
        "cached": outcome.predicted_cached_tokens,
    }
