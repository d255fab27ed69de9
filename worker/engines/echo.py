"""An engine without a model: it says back what the user said, one word per step.

It is shipped so that the whole stack runs on a laptop without a GPU and in tests, deterministic and quick. It
keeps the `Engine` protocol to the letter: continuous batching, prefill in chunks, cancellation, tool calls, stop
sequences, limits. A token is a word. What it does not prove: templates, tokenizers, tool parsing, caching (it
never reports cached tokens), memory, sampling, and anything about speed but the stack's own.

Lines of the last user message may ask for more than an echo: see `worker.engines.echo_script`. Options of the model
spec: `step_ms` 0 (time of a step that generates), `prefill_tokens_per_s` 0 (instant), `load_ms` 0, `context_tokens`
200000.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.config import Settings
from shared.errors import ConfigError, PromptTooLongError
from shared.events import Event, Finished, Progress, Started, TextDelta, Usage
from shared.registry import ModelSpec
from shared.request import GenerateRequest
from worker.engines.base import EngineInfo, EngineStats, Prepared, StepOutput
from worker.engines.echo_script import Plan, build_plan, count_words

_LOAD_STEPS = 10


@dataclass(slots=True)
class _Running:
    request_id: str
    prompt_tokens: int
    plan: Plan
    submitted_ns: int
    prefilled_tokens: int = 0
    generated_tokens: int = 0
    reasoning_tokens: int = 0
    is_started: bool = False

    def usage(self) -> Usage:
        return Usage(
            input_tokens=self.prompt_tokens,
            output_tokens=self.generated_tokens,
            reasoning_tokens=self.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    step_ms: float = 0.0
    prefill_tokens_per_s: float = 0.0
    load_ms: float = 0.0
    context_tokens: int = 200_000


def parse_options(options: dict[str, Any]) -> EchoOptions:
    """Raises `ConfigError` naming an option that is unknown or not a number."""
    known = {"step_ms": float, "prefill_tokens_per_s": float, "load_ms": float, "context_tokens": int}
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"echo engine: unknown option {name!r}")
        try:
            values[name] = known[name](value)
        except (TypeError, ValueError):
            raise ConfigError(f"echo engine: option {name}={value!r} is not a number") from None
    return EchoOptions(**values)


@dataclass(slots=True)
class _Totals:
    generated_tokens: int = 0
    finished_requests: int = 0


class EchoEngine:
    """See the module's text and `worker.engines.base.Engine`."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self._options = parse_options(spec.options)
        self._context_tokens = settings.max_context_tokens or self._options.context_tokens
        self._chunk_tokens = settings.prefill_step_tokens
        self._running: dict[str, _Running] = {}
        self._totals = _Totals()
        self._thawed = threading.Event()

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        for step in range(_LOAD_STEPS):
            report(step / _LOAD_STEPS)
            _pause(self._options.load_ms / 1000 / _LOAD_STEPS)
        report(1.0)
        return EngineInfo(context_tokens=self._context_tokens, supports_tools=True, supports_reasoning=True)

    def prepare(self, request: GenerateRequest) -> Prepared:
        prompt_tokens = count_words(request)
        if prompt_tokens >= self._context_tokens:
            raise PromptTooLongError.of(prompt_tokens, self._context_tokens)
        limit = request.sampling.max_tokens
        room = self._context_tokens - prompt_tokens
        plan = build_plan(request, room if limit is None else min(limit, room))
        return Prepared(request=request, prompt_tokens=prompt_tokens, payload=plan)

    def count_tokens(self, request: GenerateRequest) -> int:
        return count_words(request)

    def submit(self, prepared: Prepared) -> None:
        request_id = prepared.request.id
        self._running[request_id] = _Running(request_id, prepared.prompt_tokens, prepared.payload, time.monotonic_ns())

    def cancel(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def step(self) -> list[StepOutput]:
        starting = [running for running in self._running.values() if not running.is_started]
        if starting:
            return [self._start(running) for running in starting]
        outputs: list[StepOutput] = []
        prefilling = next((r for r in self._running.values() if r.prefilled_tokens < r.prompt_tokens), None)
        if prefilling is not None:
            outputs.append(self._prefill(prefilling))
        decoding = [r for r in self._running.values() if r.prefilled_tokens >= r.prompt_tokens]
        if decoding:
            _pause(self._options.step_ms / 1000)
        outputs += [output for running in decoding if (output := self._advance(running)) is not None]
        if not outputs:
            _pause(0.001)  # everything hangs: do not spin
        return outputs

    def has_work(self) -> bool:
        return bool(self._running)

    def idle(self) -> None:
        """Nothing is ever left over."""

    def stats(self) -> EngineStats:
        running = list(self._running.values())
        waiting = [r.prompt_tokens - r.prefilled_tokens for r in running if r.prefilled_tokens < r.prompt_tokens]
        return EngineStats(
            running=len(running) - len(waiting),
            waiting=len(waiting),
            waiting_tokens=sum(waiting),
            prefill_tokens_per_s=self._options.prefill_tokens_per_s,
            decode_tokens_per_s=1000 / self._options.step_ms if self._options.step_ms else 0.0,
            metrics={
                "generated_tokens_total": float(self._totals.generated_tokens),
                "finished_requests_total": float(self._totals.finished_requests),
            },
        )

    def unload(self) -> None:
        self._thawed.set()
        self._running.clear()

    def _start(self, running: _Running) -> StepOutput:
        running.is_started = True
        if running.plan.failure is not None and not running.plan.tokens:
            # Nothing of the answer is ever there, so neither is its beginning.
            return self._ended(running, (running.plan.failure,))
        if not self._options.prefill_tokens_per_s:
            running.prefilled_tokens = running.prompt_tokens
        return StepOutput(request_id=running.request_id, events=(Started(usage=running.usage()),))

    def _prefill(self, running: _Running) -> StepOutput:
        """One chunk, at most a tenth of a second long so that a cancellation is felt soon."""
        rate = self._options.prefill_tokens_per_s
        left = running.prompt_tokens - running.prefilled_tokens
        chunk = max(1, min(left, self._chunk_tokens, int(rate / 10)))
        _pause(chunk / rate)
        running.prefilled_tokens += chunk
        progress = Progress(phase="prefill", done_tokens=running.prefilled_tokens, total_tokens=running.prompt_tokens)
        return StepOutput(request_id=running.request_id, events=(progress,))

    def _advance(self, running: _Running) -> StepOutput | None:
        plan = running.plan
        if plan.mode == "hang":
            return None
        if plan.mode == "freeze":
            self._thawed.wait()
        if plan.mode == "break":
            raise RuntimeError("echo:break")
        events: tuple[Event, ...] = ()
        ids: tuple[int, ...] = ()
        if running.generated_tokens < len(plan.tokens):
            token = plan.tokens[running.generated_tokens]
            events, ids = token.events, (zlib.crc32(token.text.encode()),)
            if plan.mode == "clock" and running.generated_tokens == 0:
                said = TextDelta(text=f"{plan.prepared_ns} {running.submitted_ns} {time.monotonic_ns()} ")
                events = (said, *events)
            running.generated_tokens += 1
            running.reasoning_tokens += token.kind == "reasoning"
            self._totals.generated_tokens += 1
        if running.generated_tokens == len(plan.tokens):
            return self._ended(running, (*events, plan.failure or self._finished(running)), ids)
        return StepOutput(request_id=running.request_id, events=events, token_ids=ids)

    def _ended(self, running: _Running, events: tuple[Event, ...], ids: tuple[int, ...] = ()) -> StepOutput:
        del self._running[running.request_id]
        self._totals.finished_requests += 1
        return StepOutput(request_id=running.request_id, events=events, token_ids=ids)

    @staticmethod
    def _finished(running: _Running) -> Finished:
        plan = running.plan
        return Finished(reason=plan.reason, usage=running.usage(), stop_sequence=plan.stop_sequence)


def _pause(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)
