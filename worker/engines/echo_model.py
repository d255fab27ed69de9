"""What both echo engines are made of: options, prompts, and an answer that is said word by word."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, replace
from typing import Any

from shared.config import Settings
from shared.cost import PrefillCost
from shared.errors import ConfigError, PromptTooLongError, WorkerLostError
from shared.events import Event, Finished, Progress, Started, TextDelta, Usage
from shared.registry import ModelSpec
from shared.request import GenerateRequest, Resume
from worker.engines.base import EngineInfo, EngineStats, Output, Prepared
from worker.engines.echo_script import Plan, Token, build_plan, count_words

LOAD_STEPS = 10


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


class EchoModel:
    """What is known of the model that there is none of. Counts what is said, for the metrics."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self.options = parse_options(spec.options)
        self._context_tokens = settings.max_context_tokens or self.options.context_tokens
        self._capacity = settings.capacity
        self._chunk_tokens = settings.prefill_step_tokens

    def info(self, *, can_pause: bool) -> EngineInfo:
        return EngineInfo(
            context_tokens=self._context_tokens,
            supports_tools=True,
            supports_reasoning=True,
            capacity=self._capacity,
            can_pause=can_pause,
        )

    def prepare(self, request: GenerateRequest, resume: Resume | None) -> Prepared:
        prompt_tokens = count_words(request)
        if prompt_tokens >= self._context_tokens:
            raise PromptTooLongError.of(prompt_tokens, self._context_tokens)
        limit = request.sampling.max_tokens
        room = self._context_tokens - prompt_tokens
        plan = build_plan(request, room if limit is None else min(limit, room))
        past = _past(plan, resume) if resume is not None else ()
        return Prepared(request=request, prompt_tokens=prompt_tokens, payload=(plan, resume), past=past)

    def stats(self) -> EngineStats:
        options = self.options
        return EngineStats(
            prefill_tokens_per_s=options.prefill_tokens_per_s,
            prefill_cost=_cost(options.prefill_tokens_per_s),
            decode_tokens_per_s=1000 / options.step_ms if options.step_ms else 0.0,
        )

    def chunk_tokens(self, left: int) -> int:
        """The next chunk of a prompt, at most a tenth of a second long so that a cancellation is felt soon."""
        return max(1, min(left, self._chunk_tokens, int(self.options.prefill_tokens_per_s / 10)))


def _cost(tokens_per_s: float) -> PrefillCost:
    return PrefillCost(token_s=1 / tokens_per_s) if tokens_per_s else PrefillCost()


class EchoAnswer:
    """One request, said word by word. `is_over` once its last output was made."""

    def __init__(self, prepared: Prepared, model: EchoModel) -> None:
        assert prepared.prompt_tokens is not None
        plan, resume = prepared.payload
        self.plan: Plan = plan
        self._resume: Resume | None = resume
        self.is_started = False
        self.is_over = False
        self.priority = prepared.request.priority
        self._key = prepared.key
        self._model = model
        self._prompt_tokens = prepared.prompt_tokens
        self._prefilled_tokens = 0
        self._generated_tokens = len(resume.token_ids) if resume is not None else 0
        self._reasoning_tokens = sum(token.kind == "reasoning" for token in plan.tokens[: self._generated_tokens])
        self._submitted_ns = time.monotonic_ns()

    @property
    def uncomputed_tokens(self) -> int:
        """Of the prompt."""
        return self._prompt_tokens - self._prefilled_tokens

    def start(self) -> Output:
        """Its first output."""
        self.is_started = True
        if self.plan.failure is not None and not self.plan.tokens:
            # Nothing of the answer is ever there, so neither is its beginning.
            return self._ended((self.plan.failure,))
        if not self._model.options.prefill_tokens_per_s:
            self._prefilled_tokens = self._prompt_tokens
        return self._output(Started(usage=self._usage()))

    def prefilled(self, tokens: int) -> Output:
        """Some of the prompt was computed."""
        self._prefilled_tokens += tokens
        done, total = self._prefilled_tokens, self._prompt_tokens
        return self._output(Progress(phase="prefill", done_tokens=done, total_tokens=total))

    def _output(self, opening: Event) -> Output:
        """An event of before the first word, which only a first attempt says."""
        return Output(key=self._key, events=(opening,) if self._resume is None else ())

    def say(self) -> Output:
        """The next word."""
        plan = self.plan
        events: tuple[Event, ...] = ()
        ids: tuple[int, ...] = ()
        if self._generated_tokens < len(plan.tokens):
            token = plan.tokens[self._generated_tokens]
            events, ids = token.events, (_id(token),)
            if plan.mode == "clock" and self._generated_tokens == 0:
                said = TextDelta(text=f"{plan.prepared_ns} {self._submitted_ns} {time.monotonic_ns()} ")
                events = (said, *events)
            self._generated_tokens += 1
            self._reasoning_tokens += token.kind == "reasoning"
        if self._generated_tokens == len(plan.tokens):
            return self._ended((*events, plan.failure or self._finished()), ids)
        return Output(key=self._key, events=events, token_ids=ids)

    def _ended(self, events: tuple[Event, ...], ids: tuple[int, ...] = ()) -> Output:
        self.is_over = True
        return Output(key=self._key, events=events, token_ids=ids)

    def _finished(self) -> Finished:
        plan = self.plan
        return Finished(reason=plan.reason, usage=self._usage(), stop_sequence=plan.stop_sequence)

    def _usage(self) -> Usage:
        first = self._resume.usage if self._resume is not None else Usage(input_tokens=self._prompt_tokens)
        return replace(first, output_tokens=self._generated_tokens, reasoning_tokens=self._reasoning_tokens)


def _past(plan: Plan, resume: Resume) -> tuple[Event, ...]:
    """What an earlier attempt has said. Raises `WorkerLostError` when this plan does not begin with it."""
    said = plan.tokens[: len(resume.token_ids)]
    if tuple(_id(token) for token in said) != resume.token_ids:
        raise WorkerLostError("the answer cannot go on: it began with other words")
    return (Started(usage=resume.usage), *(event for token in said for event in token.events))


def _id(token: Token) -> int:
    return zlib.crc32(token.text.encode())
