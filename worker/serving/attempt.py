"""One attempt at one request, as long as this worker has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from shared.errors import GatewayError
from shared.events import EventOrder, ReturnReason, Usage
from shared.grants import Grant
from shared.readable import NOTHING
from shared.request import Resume
from shared.work import KINDS_BY_NAME, Kind
from worker.serving.said import Listener, Said
from worker.serving.ticket import Ticket


class Expected(NamedTuple):
    """What its gateway predicted when it was placed, at `placed_s` in Redis's time; 0 where it did not."""

    placed_s: float = 0.0
    wait_s: float = 0.0
    prefill_s: float = 0.0


UNEXPECTED = Expected()


@dataclass(slots=True)
class Attempt:
    """`gateway` is empty until the body is decoded; `is_checked` once the body is known to be this attempt's;
    `is_begun` once the engine has said something of it. `returned` says why it goes back to its gateway instead of
    ending with `error`."""

    ticket: Ticket
    taken_s: float
    gateway: str = ""
    deadline_s: float = 0.0
    seq: int = 0
    error: GatewayError | None = None
    returned: ReturnReason | None = None
    is_begun: bool = False
    is_checked: bool = False
    is_suspect: bool = False
    said_tokens: int = 0
    is_ended: bool = False
    first_s: float = 0.0
    answered_s: float = 0.0  # its first token
    is_prefilled: bool = False
    usage: Usage = field(default_factory=Usage)
    order: EventOrder = field(init=False)
    resume: Resume | None = None
    grant: Grant | None = None
    prompt_digest: str = ""
    unread: frozenset[int] = NOTHING  # codes that the gateway does not read
    expected: Expected = UNEXPECTED
    traceparent: str = ""
    is_beside: bool = False  # its prefill began while others decoded
    said: Said | None = None  # what may be said again; None where nobody may come to hear it
    listeners: list[Listener] = field(default_factory=list)
    is_left: bool = False  # the gateway that asked for it hears it no more
    is_cut: bool = False  # its error was said in place of what does not travel

    def __post_init__(self) -> None:
        self.order = EventOrder(self.kind.begins)

    @property
    def kind(self) -> Kind:
        return KINDS_BY_NAME[self.ticket.kind]

    @property
    def key(self) -> str:
        """Its name in the engine, where an earlier attempt may not have come to its end yet."""
        return f"{self.ticket.request_id}-{self.ticket.attempt}"
