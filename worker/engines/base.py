"""What every engine is to the worker: a batch of requests advanced one step at a time.

Threads. `load`, `submit`, `cancel`, `step`, `idle` and `unload` are called on one thread only, the engine thread, which
owns the device. `prepare` and `count_tokens` may be called on any number of other threads at the same time and
must not touch the device: rendering and tokenising run beside generation, never behind it.

Errors. `prepare` and `count_tokens` raise `GatewayError`s meant for the client. `step` never raises for one
request's sake: what goes wrong with a request becomes its `Failed` event; an exception out of `step` means that
the engine is broken and the worker ends itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.events import Event
from shared.request import GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the loaded model can do. `context_tokens` bounds prompt plus answer."""

    context_tokens: int
    supports_tools: bool = False
    supports_reasoning: bool = False
    supports_images: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A rendered and tokenised request. `prompt_tokens` is its length; `payload` is the engine's own business;
    `warnings` say what of the request will not be honoured."""

    request: GenerateRequest
    prompt_tokens: int
    payload: Any = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What one step did for one request. The last output of a request ends in `Finished` or `Failed`."""

    request_id: str
    events: tuple[Event, ...]
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Sampled once a second for the lease and the metrics. Rates in tokens per second."""

    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    cache_bytes: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """See the module's text for threads and errors."""

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        """Load the model, calling `report` with 0..1. Raises `ModelUnavailableError` with the reason."""

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Render and tokenise. Raises `PromptTooLongError`, `InvalidRequestError`, `UnsupportedContentError`."""

    def count_tokens(self, request: GenerateRequest) -> int:
        """Tokens of the prompt that `prepare` would make, generation header included; also when it is too long."""

    def submit(self, prepared: Prepared) -> None:
        """Take the request in; its first output comes from a later `step` and begins with `Started`."""

    def cancel(self, request_id: str) -> None:
        """Forget the request without further outputs, keeping what is reusable. Unknown ids are ignored."""

    def step(self) -> list[StepOutput]:
        """Advance everything once: one decode step for running requests, at most one prefill chunk."""

    def has_work(self) -> bool:
        """Whether `step` would do anything."""

    def idle(self) -> None:
        """Called several times a second while there is no work, for what is to be done all the same."""

    def stats(self) -> EngineStats:
        """A snapshot; may be called from any thread."""

    def unload(self) -> None:
        """Free the model. Idempotent."""
