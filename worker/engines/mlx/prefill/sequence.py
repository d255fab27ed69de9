"""One request in the engine, from submission to its last token."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from shared.events import Event, Started, Usage, known
from shared.request import GenerateRequest
from worker.engines.base import Outbox, Output
from worker.engines.mlx.decode.sampling import RowParams, RowSampler
from worker.engines.mlx.eyes.base import Seen
from worker.engines.mlx.eyes.places import moved_behind
from worker.engines.mlx.kv.lease import Lease
from worker.engines.mlx.kv.peer_files import Awaited
from worker.engines.tokens.answer import Answer
from worker.engines.tokens.constraint import Grammar
from worker.prefix_cache.tokens import pack_tokens
from worker.prompt import Prompt
from worker.prompt.image_files import Pixels


@dataclass(slots=True)
class Sight:
    """What a sequence has of its images, by where they start: pixels on their way, and what is ready to be read."""

    pixels: dict[int, Future[Pixels]] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """`tokens` is what the cache must hold before the next token can be sampled: the prompt, and after an
    interruption also what was generated before it. `packed` is the same as bytes, images by
    their content.

    Waiting: no lease. Prefilling: a lease and a cache that holds `position` tokens. Decoding: `row_length` tokens are
    in the decoder's cache.
    """

    key: str  # the request's name in the engine
    request: GenerateRequest
    prompt: Prompt
    packed: bytes
    params: RowParams
    grammar: Grammar | None  # the form that the answer must have
    max_new_tokens: int
    answer: Answer
    submitted_s: float
    tokens: list[int] = field(default_factory=list)
    position: int = 0
    stops: tuple[int, ...] = ()  # depths at which what was computed is kept
    awaited: Awaited | None = None  # what comes for it from another host
    own_tokens: int = 0  # computed here until what came from the end was met
    has_met: bool = False  # since it was begun last
    fetching: Lease | None = None  # while what it needs is read from the disk
    lease: Lease | None = None
    cache: list[Any] | None = None
    sight: Sight | None = None
    sampler: RowSampler | None = None
    is_decoding: bool = False
    is_paused: bool = False  # waits for a place, and is not prefilled before it has one
    is_started: bool = False  # whether `Started` was emitted
    is_resumed: bool = False  # an earlier attempt, elsewhere, has begun the answer
    input_tokens: int = 0
    cached_tokens: int = 0
    restored_tokens: int = 0
    parted: str = ""  # see `Usage`
    peeked: tuple[int, int] = (-1, 0)  # (version of the store, tokens cached at that version)

    def __post_init__(self) -> None:
        self.tokens = self.prompt.tokens
        self.input_tokens = len(self.prompt.tokens)

    @property
    def generated(self) -> list[int]:
        return self.answer.tokens

    @property
    def is_waiting(self) -> bool:
        """Whether its prompt may be prefilled."""
        return not (self.is_decoding or self.is_paused)

    @property
    def total(self) -> int:
        return len(self.tokens)

    @property
    def longest(self) -> int:
        """Tokens that the cache may come to hold."""
        return len(self.prompt.tokens) + self.max_new_tokens

    @property
    def moved(self) -> int:
        """By how much what comes behind its prompt stands before its offset in the cache."""
        return moved_behind(self.prompt, len(self.prompt.tokens)) if self.prompt.spans else 0

    def open(self, outbox: Outbox) -> tuple[Event, ...]:
        """Its prefill begins, which is told at once, the first time: the worker measures waits up to here and prefills
        from here on. Where one of its images may prove to be none, this gives what is to be told with the outcome."""
        if self.is_started:
            return ()
        self.is_started = True
        started = (Started(usage=self.usage()),)
        if self.prompt.spans:
            return started
        outbox.emit([Output(key=self.key, events=started)])
        return ()

    def interrupt(self) -> None:
        """Go back to waiting, with what was generated as part of what has to be computed again."""
        self.tokens = self.prompt.tokens + self.generated
        self.packed = pack_tokens([*self.prompt.cache_keys, *self.generated])
        self.position, self.stops, self.lease, self.cache = 0, (), None, None
        self.is_decoding, self.peeked = False, (-1, 0)

    def resume(self, first: Usage) -> None:
        """Go on with an answer whose beginning was told elsewhere; `first` is the usage that was told with it."""
        self.interrupt()
        self.is_resumed = self.is_started = True
        self.input_tokens, self.parted = known(first.input_tokens), first.parted
        self.cached_tokens, self.restored_tokens = known(first.cached_tokens), known(first.restored_tokens)

    def usage(self) -> Usage:
        return Usage(
            input_tokens=self.input_tokens,
            cached_tokens=self.cached_tokens,
            restored_tokens=self.restored_tokens,
            output_tokens=len(self.generated),
            reasoning_tokens=self.answer.reasoning_tokens,
            parted=self.parted,
        )
