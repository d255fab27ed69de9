"""One attempt at a request: which worker answers, how far it is, and which of its entries come next."""

from __future__ import annotations

import time

from gateway.dispatch.facts import Placed
from shared.errors import GatewayError
from shared.events import ReturnReason
from shared.keys import host_of
from shared.request import Resume


class Attempt:
    """`number` counts from 1 and is part of every frame that answers. `place` is where its job was put last. With
    `resume` it goes on where an earlier one was, instead of beginning anew.

    `worker` and `epoch` say who answers, empty until the first entry. Once a worker has started the answer, entries
    of any other are fenced off; before that a second worker may take over (RQ gave it the job again).
    """

    __slots__ = (
        "_hosts",
        "_place",
        "epoch",
        "fault",
        "heard_s",
        "held_s",
        "hung_as_suspect",
        "is_excused",
        "is_over",
        "is_running",
        "is_started",
        "next_seq",
        "number",
        "prefilled_tokens",
        "prompt_tokens",
        "put_s",
        "resume",
        "returned",
        "said_tokens",
        "worker",
    )

    def __init__(self, number: int, place: Placed, resume: Resume | None = None) -> None:
        self.number = number
        self._hosts: set[str] = set()
        self._place = place
        self.allow(place)
        self.resume = resume
        self.worker = ""
        self.epoch = ""
        self.heard_s = self.put_s = time.monotonic()
        self.held_s = 0.0  # since when RQ is known to name who has it; 0 while nobody asked
        self.prompt_tokens = self.prefilled_tokens = 0  # as far as its worker has told
        self.said_tokens = 0
        self.hung_as_suspect: bool | None = None  # whether it was a suspect when its worker's engine hung
        self.is_excused = False  # its worker died, and a suspect was there that this was not
        self.next_seq = 0
        self.is_running = False  # its prefill has begun
        self.is_started = False
        self.is_over = False  # its worker has ended it
        self.fault: GatewayError | None = None  # with which it did
        self.returned: ReturnReason | None = None  # why its worker gave it back, unbegun

    @property
    def place(self) -> Placed:
        return self._place

    @place.setter
    def place(self, place: Placed) -> None:
        self._place = place
        self.allow(place)

    def allow(self, place: Placed) -> None:
        """Its job is about to be put there: who takes it may answer before that is known here."""
        self._hosts.add(host_of(place.worker))

    @property
    def prefill_done(self) -> float | None:
        """The share of its prompt that is read, what was cached included; None while nothing is known of it."""
        return min(1.0, self.prefilled_tokens / self.prompt_tokens) if self.prompt_tokens else None

    def note_progress(self, done_tokens: int, total_tokens: int) -> None:
        """Of its prompt; 0 where that is not told."""
        self.prefilled_tokens = max(self.prefilled_tokens, done_tokens)
        self.prompt_tokens = total_tokens or self.prompt_tokens

    def is_for(self, host: str) -> bool:
        """Whether its job was ever placed on this host, so that the host may answer."""
        return host in self._hosts

    def accepts(self, seq: int, worker: str, epoch: str) -> bool:
        """Whether an entry is news from who answers. Numbers begin anew with another worker."""
        if worker == self.worker and epoch == self.epoch:
            return seq >= self.next_seq
        if self.worker and (self.is_started or seq != 0):
            return False
        self.worker, self.epoch, self.next_seq = worker, epoch, 0
        return True
