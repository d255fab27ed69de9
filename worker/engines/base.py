"""What every engine is to the worker: a place that takes prepared requests in and says what becomes of them.

How an engine gets there is its own affair. One that computes here steps a batch (`worker.engines.stepped`); one that
speaks with a server streams from it (`worker.engines.streamed`). Both are asked and answer in the same way.

Threads. `load` and `unload` block and are called once, in this order, on one thread. `locate`, `prepare` and `count`
may be called on any number of threads at the same time and must not touch the device: rendering and tokenising run
beside generation, never behind it. `submit`, `pause` and `cancel` return at once, from any thread, and are obeyed in
the order of the calls. `stats` is a snapshot, from any thread. The outbox is told on a thread of the engine's.

Errors. `prepare` and `count` raise `GatewayError`s meant for the client. What goes wrong with one request after that
becomes its `Failed`; what goes wrong with the engine itself is said once, as `Outbox.broken`, and the worker ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from shared.cost import PrefillCost
from shared.events import Embedded, Event, Spoken, Transcribed
from shared.grants import Grant
from shared.request import GenerateRequest, Resume
from shared.work import KINDS, Count, Embed, Generate, Speak, Transcribe
from worker.prefix_cache.marks import NOBODY, Residents
from worker.prefix_cache.outline import Outline

if TYPE_CHECKING:
    from worker.prompt.days import SharedDays  # (its package loads Jinja, which few engines need)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the loaded model can do.

    `context_tokens` bounds prompt plus answer. `capacity` is how many requests it runs at once, 0 when it sets no
    bound of its own; `kinds` are the kinds of work it takes. `gives_token_ids` says whether its outputs hold the ids
    of what was generated: without them an answer cannot be resumed. `can_pause` says whether `pause` does anything.
    `template` is what a person should know of the model's chat template, by name. `identity` sums up the model's files,
    the same wherever they lie; empty where that is not known. `relays` is the dialect whose bodies it passes on as they
    are (`GenerateRequest.original`); empty where it passes on none.
    """

    context_tokens: int
    supports_tools: bool = False
    supports_reasoning: bool = False
    supports_images: bool = False
    capacity: int = 0
    kinds: tuple[str, ...] = (KINDS[Generate].name, KINDS[Count].name)
    gives_token_ids: bool = True
    can_pause: bool = False
    template: dict[str, str] = field(default_factory=dict)
    identity: str = ""
    relays: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A rendered and tokenised request. `key` names it to the engine, for as long as it runs; empty, it is the
    request's id. `prompt_tokens` is its length, None where the engine does not know it; `prompt_digest` is of its
    tokens; `payload` is the engine's own business; `warnings` say what of the request will not be honoured. `past` are
    the events that its client has already, from an earlier attempt; `offer` is what `Engine.locate` gave for it."""

    request: GenerateRequest
    prompt_tokens: int | None
    key: str = ""
    payload: Any = None
    warnings: tuple[str, ...] = ()
    prompt_digest: str = ""
    past: tuple[Event, ...] = ()
    offer: Any = None

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", self.request.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is new of one request. The first begins with `Started`, unless it was resumed; the last ends in `Finished`
    or `Failed`."""

    key: str
    events: tuple[Event, ...]
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Sampled for the lease, the metrics and before work is taken. Rates in tokens per second; `waiting_s` is the
    predicted time of the prefills to come, by class (`PRIORITIES`), empty while unknown; `prefill_cost` is what it is
    predicted with. `stalled_s` is for how long the engine has worked without a sign of life; None when it keeps no
    clock, so that the silence of its outbox is what counts; `longest_step_s` is how long that was at the most lately, 0
    before the first step. `residents` are the prefixes that need not be computed, another value whenever they change;
    those on disk come back at `restore_tokens_per_s` (0: not known), where a token takes `kept_bytes_per_token`.
    `link_bytes_per_s` is how fast files of other hosts come here, by the hosts' words. `capacity` takes the place of
    the info's where it was found out after loading; 0: it was not."""

    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    cache_bytes: int = 0
    waiting_s: tuple[float, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    stalled_s: float | None = None
    longest_step_s: float = 0.0
    notes: tuple[str, ...] = ()
    prefill_cost: PrefillCost = field(default_factory=PrefillCost)
    residents: Residents = NOBODY
    restore_tokens_per_s: float = 0.0
    kept_bytes_per_token: float = 0.0
    link_bytes_per_s: dict[str, float] = field(default_factory=dict)
    capacity: int = 0


class Outbox(Protocol):
    """Where an engine speaks."""

    def emit(self, outputs: Sequence[Output]) -> None:
        """What is new, of any number of requests: it leaves as one frame for each gateway. So an engine says together
        what it has at one moment."""

    def alive(self) -> None:
        """At work, with nothing to tell: whoever measures the engine's silence begins anew."""

    def broken(self, error: BaseException) -> None:
        """The engine is of no use any more. Nothing follows."""


class Engine(Protocol):
    """See the module's text for threads and errors."""

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        """Load the model, calling `report` with 0..1. Raises `ModelUnavailableError` with the reason."""

    def locate(self, request: GenerateRequest, grant: Grant) -> Any:
        """Ask another host what it has of the request's prompt, before that is rendered: like `prepare`, on any thread.
        What it gives goes into `Prepared.offer`, and with that the engine fetches what it lacks; None where there is
        nothing to fetch, or the engine fetches nothing."""

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        """Render and tokenise. Raises `PromptTooLongError`, `InvalidRequestError`, `UnsupportedContentError`.

        With `resume` the request goes on where an earlier attempt was: its outputs are those that follow, with neither
        `Started` nor `Progress`, as if the first attempt had said them; its usage is that of the whole answer. Raises
        `WorkerLostError` when it cannot go on here."""

    def count(self, request: GenerateRequest) -> int | None:
        """Tokens of the prompt that `prepare` would make, generation header included; also when it is too long. None
        where the engine cannot know."""

    def start(self, outbox: Outbox) -> None:
        """Begin to work on what is submitted. Called once, after `load`."""

    def submit(self, prepared: Prepared) -> None:
        """Take the request in."""

    def pause(self, key: str) -> None:
        """Make place for another request: what this one has computed is kept, and it goes on where it was once fewer
        than `EngineInfo.capacity` run. Unknown keys are ignored, and so is every call where the info says so."""

    def cancel(self, key: str) -> None:
        """Forget the request, keeping what is reusable. Nothing is told of it once this was obeyed. Unknown keys are
        ignored."""

    def stats(self) -> EngineStats:
        """A snapshot."""

    def unload(self, timeout_s: float) -> bool:
        """Free the model and end the engine's threads. False when they did not come to an end in time: the process
        then cannot end by itself. May be called again."""


@runtime_checkable
class Successor(Protocol):
    """An engine that can take over what a host that leaves has kept in files."""

    def take_over(self, grant: Grant, part: int, parts: int) -> None:
        """Begin to fetch the latest conversations of the grant's peer, this part of them, on threads of its own. On any
        thread, once the model is loaded; said again while it goes on it means nothing."""


@runtime_checkable
class Dated(Protocol):
    """An engine whose prompts may tell the day."""

    def share_days(self, days: SharedDays) -> None:
        """Said once, when the model is loaded: what day a conversation began on is asked there, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is kept of prompts, after so many pieces were dropped."""

    dropped: int
    outline: Outline


@runtime_checkable
class Keeper(Protocol):
    """An engine that can tell what it keeps of prompts."""

    def look_at_pieces(self, drop: tuple[bytes, ...]) -> Future[Seen | None]:
        """Take these pieces away and tell the rest, between two steps. On any thread. None where nothing can be told;
        no result where the engine ends before."""


@runtime_checkable
class Embedder(Protocol):
    """An engine that makes vectors of texts."""

    def embed(self, work: Embed) -> Embedded:
        """On any number of threads at once, beside the batch if there is one. Raises `PromptTooLongError` and
        `InvalidRequestError`."""


class Say(Protocol):
    """Tells of work beside the batch while it is done."""

    def __call__(self, *events: Event) -> bool:
        """Tell these, or none. Whether the work is still wanted."""


@runtime_checkable
class Transcriber(Protocol):
    """An engine that writes down what is said."""

    def transcribe(self, work: Transcribe, say: Say) -> Transcribed:
        """On any number of threads at once. It says `Started`, and where the work asks for it each segment. Raises
        `InvalidRequestError`, `UnsupportedContentError`, and `RequestCancelledError` once it is not wanted."""


@runtime_checkable
class Speaker(Protocol):
    """An engine that says texts aloud."""

    def speak(self, work: Speak, say: Say) -> Spoken:
        """On any number of threads at once. It says `Started`, and `Sound` as it is made. Raises `InvalidRequestError`,
        and `RequestCancelledError` once it is not wanted."""
