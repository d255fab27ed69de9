"""What every dialect is to the one generic endpoint. No I/O, no clock, no ids of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.errors import GatewayError
from shared.events import Completion, Event
from shared.registry import Fleet
from shared.request import GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """Facts the renderer needs from outside. `created_s` is Unix time; `model` is the name the client used; `noop_s`
    is the silence after which a client may want more than signs of life, again and again. `fingerprint` tells apart who
    may answer the same request differently; empty where it is not known."""

    request_id: str
    model: str
    created_s: int
    choices: int = 1
    noop_s: float = 110.0
    fingerprint: str = ""


class StreamRenderer(Protocol):
    """Events of one request in, SSE bytes out. Pure but for its own state."""

    def start(self) -> bytes:
        """Bytes to send at once, before anything is known of the request (may be empty)."""

    def feed(self, event: Event, choice: int = 0) -> bytes:
        """Bytes of one event of one choice (may be empty). After the last choice's `Finished`, or a `Failed`, the
        stream is complete."""

    def keepalive(self, silent_s: float) -> bytes:
        """Bytes that keep the client waiting; `silent_s` is how long no real event was sent."""


class Reply(Protocol):
    """How one request wants its answer, and the answer in that form."""

    def stream(self, context: RenderContext) -> StreamRenderer: ...

    def render(self, completions: Sequence[Completion], context: RenderContext) -> dict[str, Any]:
        """The whole answer, of one completion per choice; says exactly what the streamed one would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """`request.model` is still the client's name for it. `others` are further prompts that are answered with it, and
    `choices` is how many answers it wants to each, at once.
    `items` is the conversation that its client wants kept with the answer, in the client's own form; None: nothing is.
    `came` and `became` are the shapes of its messages before and after they were made stable (`gateway.trace.shape`).
    `is_repeatable`: the client's headers say that who asks the same again wants the same answer. `warnings` say what
    of the request is not honoured."""

    request: GenerateRequest
    stream: bool
    reply: Reply
    others: tuple[GenerateRequest, ...] = ()
    choices: int = 1
    is_repeatable: bool = False
    warnings: tuple[str, ...] = ()
    items: tuple[Any, ...] | None = None
    came: str = ""
    became: str = ""

    @property
    def answers(self) -> int:
        """How many there will be."""
        return self.choices * (1 + len(self.others))


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedError:
    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


class Dialect(Protocol):
    name: str

    def recognises(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers are those of the vendor's own clients."""

    def parse_request(
        self, body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False
    ) -> Parsed:
        """`body` is any JSON value, `headers` has lower-case names. With `counting`, fields that only generation
        needs may be missing. Raises `InvalidRequestError` naming the field, and nothing else."""

    def render_models(self, fleet: Fleet, query: Mapping[str, str]) -> dict[str, Any]:
        """The list of all models, or the part of it that the query asks for. Raises `InvalidRequestError`."""

    def render_model(self, fleet: Fleet, model: str, *, name: str) -> dict[str, Any]:
        """One model under the name by which its client asked."""

    def render_error(self, error: GatewayError, *, request_id: str) -> RenderedError: ...


class KeepingDialect(Dialect, Protocol):
    """A dialect whose clients may leave their answers here and go on from them."""

    def earlier(self, body: bytes) -> str:
        """The id of the answer that the body goes on from; empty for none. Raises `InvalidRequestError`."""

    def continued(self, body: bytes, answer: Mapping[str, Any], items: Sequence[Any]) -> bytes:
        """The body with all of the conversation in it."""

    def render_kept(self, answer: Mapping[str, Any]) -> dict[str, Any]: ...

    def render_deleted(self, answer_id: str) -> dict[str, Any]: ...

    def render_items(self, items: Sequence[Any], answer_id: str, query: Mapping[str, str]) -> dict[str, Any]:
        """What the answer answers, a page of it. Raises `InvalidRequestError`."""


class CountingDialect(Dialect, Protocol):
    """A dialect that also asks for nothing but the number of a prompt's tokens."""

    def render_count(self, input_tokens: int) -> dict[str, Any]: ...
