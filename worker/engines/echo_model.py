"""What both echo engines are made of: options, prompts, and an answer that is said word by word."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.config import Settings
from shared.cost import PrefillCost
from shared.errors import PromptTooLongError, WorkerLostError
from shared.events import Event, Finished, Progress, Started, TextDelta, Usage
from shared.options import read_options
from shared.pieces import session_digest
from shared.registry import ModelSpec
from shared.request import GenerateRequest, Resume
from shared.trail import decode_trail
from worker.engines.base import EngineInfo, EngineStats, Output, Prepared
from worker.engines.echo_cache import EchoCache, Head, pack_words
from worker.engines.echo_script import Plan, Token, build_plan, prompt_words, said_words
from worker.prefix_cache.marks import Mark
from worker.prefix_cache.tokens import TOKEN_BYTES, slice_tokens

LOAD_STEPS = 10
_CHUNK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    """The Mac that the engine passes for. `prefill_tokens_per_s` is at the start of a prompt, 0 for at once; at depth
    `slow_at_tokens` a token takes twice as long (0: as long everywhere). Prefixes of `cache_tokens` are kept in memory
    and of `disk_tokens` on disk, from where they come at `disk_tokens_per_s` (0: at once). `identity` passes for that
    of the model's files."""

    step_ms: float = 0.0
    prefill_tokens_per_s: float = 0.0
    load_ms: float = 0.0
    context_tokens: int = 200_000
    slow_at_tokens: int = 0
    cache_tokens: int = 0
    disk_tokens: int = 0
    disk_tokens_per_s: float = 0.0
    identity: str = ""

    @property
    def prefill_cost(self) -> PrefillCost:
        if not self.prefill_tokens_per_s:
            return PrefillCost()
        token_s = 1 / self.prefill_tokens_per_s
        return PrefillCost(token_s=token_s, depth_s=token_s / self.slow_at_tokens if self.slow_at_tokens else 0.0)

    def restore_s(self, tokens: int) -> float:
        return tokens / self.disk_tokens_per_s if self.disk_tokens_per_s else 0.0


def parse_options(options: dict[str, Any]) -> EchoOptions:
    """Raises `ConfigError` naming an option that is unknown or cannot be meant."""
    return EchoOptions(**read_options("echo", options))


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoPrompt:
    """`packed` are the words as the cache knows them, `marks` where the prefixes of the request's trail end in them."""

    plan: Plan
    resume: Resume | None
    packed: bytes
    marks: tuple[Mark, ...]


class EchoModel:
    """What is known of the model that there is none of. Counts what is said, for the metrics."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self.options = parse_options(spec.options)
        self._context_tokens = settings.max_context_tokens or self.options.context_tokens
        self._capacity = settings.capacity
        self._chunk_tokens = settings.prefill_step_tokens
        self.cost = self.options.prefill_cost
        self.cache = EchoCache(
            memory_tokens=self.options.cache_tokens,
            disk_tokens=self.options.disk_tokens,
            recompute_s=self.cost.predict_s if self.cost.is_known else lambda start, end: end - start,
        )

    def info(self, *, can_pause: bool) -> EngineInfo:
        return EngineInfo(
            context_tokens=self._context_tokens,
            supports_tools=True,
            supports_reasoning=True,
            capacity=self._capacity,
            can_pause=can_pause,
            identity=self.options.identity,
        )

    def prepare(self, request: GenerateRequest, resume: Resume | None) -> Prepared:
        words, ends = prompt_words(request)
        prompt_tokens = len(words)
        if prompt_tokens >= self._context_tokens:
            raise PromptTooLongError.of(prompt_tokens, self._context_tokens)
        limit = request.sampling.max_tokens
        room = self._context_tokens - prompt_tokens
        plan = build_plan(request, room if limit is None else min(limit, room))
        past = _past(plan, resume) if resume is not None else ()
        payload = EchoPrompt(plan=plan, resume=resume, packed=pack_words(words), marks=_marks(request, ends))
        return Prepared(request=request, prompt_tokens=prompt_tokens, payload=payload, past=past)

    def stats(self) -> EngineStats:
        options = self.options
        return EngineStats(
            prefill_tokens_per_s=options.prefill_tokens_per_s,
            prefill_cost=self.cost,
            cache_bytes=self.cache.tokens * TOKEN_BYTES,
            residents=self.cache.residents(),
            restore_tokens_per_s=options.disk_tokens_per_s,
            decode_tokens_per_s=1000 / options.step_ms if options.step_ms else 0.0,
        )

    def chunk_tokens(self, depth: int, left: int) -> int:
        """The next chunk of a prompt, at most a tenth of a second long so that a cancellation is felt soon."""
        return max(1, min(left, self._chunk_tokens, self.cost.fitting_tokens(depth, _CHUNK_S)))


class EchoAnswer:
    """One request, said word by word. `is_over` once its last output was made; `depth` tokens of the prompt are
    computed or were known."""

    def __init__(self, prepared: Prepared, model: EchoModel) -> None:
        assert prepared.prompt_tokens is not None
        self._prompt: EchoPrompt = prepared.payload
        self.plan = self._prompt.plan
        self._resume = resume = self._prompt.resume
        self.is_started = False
        self.is_over = False
        self.priority = prepared.request.priority
        self._tenant = prepared.request.tenant
        self._session = session_digest(prepared.request.session)
        self._key = prepared.key
        self._model = model
        self._prompt_tokens = prepared.prompt_tokens
        self._head = Head()
        self._found_at = -1  # version of the cache
        self.depth = 0
        self._generated_tokens = len(resume.token_ids) if resume is not None else 0
        self._reasoning_tokens = sum(token.kind == "reasoning" for token in self.plan.tokens[: self._generated_tokens])
        self._submitted_ns = time.monotonic_ns()

    @property
    def uncomputed_tokens(self) -> int:
        """Of the prompt."""
        return self._prompt_tokens - self.depth

    @property
    def restore_s(self) -> float:
        """For which the disk is read once it has begun."""
        return self._model.options.restore_s(self._head.restored)

    def waiting_s(self) -> float:
        """What is left of its prefill."""
        options, cost = self._model.options, self._model.cost
        if not cost.is_known or not self.uncomputed_tokens:
            return 0.0
        if self.is_started:
            return cost.predict_s(self.depth, self._prompt_tokens)
        cache = self._model.cache
        if self._found_at != cache.version:
            self._head, self._found_at = cache.find(self._tenant, self._prompt.packed), cache.version
        return options.restore_s(self._head.restored) + cost.predict_s(self._head.tokens, self._prompt_tokens)

    def start(self) -> Output:
        """Its first output."""
        self.is_started = True
        if self.plan.failure is not None and not self.plan.tokens:
            # Nothing of the answer is ever there, so neither is its beginning.
            return self._ended((self.plan.failure,))
        self._head = self._model.cache.take(self._tenant, self._prompt.packed)
        self.depth = self._head.tokens
        if not self._model.cost.is_known:
            self._computed(self._prompt_tokens)
        return self._output(Started(usage=self._usage()))

    def prefilled(self, tokens: int) -> Output:
        """Some of the prompt was computed."""
        self._computed(self.depth + tokens)
        return self._output(Progress(phase="prefill", done_tokens=self.depth, total_tokens=self._prompt_tokens))

    def _computed(self, depth: int) -> None:
        self.depth = depth
        if depth == self._prompt_tokens:
            self._keep(self._prompt.packed)

    def _keep(self, packed: bytes) -> None:
        self._model.cache.keep(self._tenant, packed, self._prompt.marks, self._session)

    def leave(self) -> None:
        """It ends here: what was computed of its prompt stays."""
        if 0 < self.depth < self._prompt_tokens:
            self._keep(slice_tokens(self._prompt.packed, 0, self.depth))

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
        if self._generated_tokens:
            self._keep(self._prompt.packed + pack_words(said_words(self.plan.tokens[: self._generated_tokens])))
        return Output(key=self._key, events=events, token_ids=ids)

    def _finished(self) -> Finished:
        plan = self.plan
        return Finished(reason=plan.reason, usage=self._usage(), stop_sequence=plan.stop_sequence)

    def _usage(self) -> Usage:
        first = Usage(
            input_tokens=self._prompt_tokens, cached_tokens=self._head.tokens, restored_tokens=self._head.restored
        )
        if self._resume is not None:
            first = self._resume.usage
        return replace(first, output_tokens=self._generated_tokens, reasoning_tokens=self._reasoning_tokens)


def _marks(request: GenerateRequest, ends: Sequence[int]) -> tuple[Mark, ...]:
    """`ends` are those of the tools and of each message, in words: this engine's prompts begin with the tools."""
    trail = decode_trail(request.trail)
    if request.is_raw:
        return trail.places(head_tokens=ends[0], tools_tokens=None, ends={})
    has_system = bool(request.messages) and request.messages[0].role == "system"
    head = ends[1] if has_system else ends[0]
    return trail.places(head_tokens=head, tools_tokens=ends[0], ends=dict(enumerate(ends[1:])))


def _past(plan: Plan, resume: Resume) -> tuple[Event, ...]:
    """What an earlier attempt has said. Raises `WorkerLostError` when this plan does not begin with it."""
    said = plan.tokens[: len(resume.token_ids)]
    if tuple(_id(token) for token in said) != resume.token_ids:
        raise WorkerLostError("the answer cannot go on: it began with other words")
    return (Started(usage=resume.usage), *(event for token in said for event in token.events))


def _id(token: Token) -> int:
    return zlib.crc32(token.text.encode())
