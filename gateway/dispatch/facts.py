"""What a placement is decided on, and what is decided: plain values.

Fleet and sights are of one moment: leases and lists are read from Redis together (`outlook`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.errors import GatewayError
from shared.notes import Note
from shared.places import NONE, Counts
from shared.request import Priority
from shared.work import KINDS, Generate, Kind


class Known(NamedTuple):
    """Of a prompt's beginning that is known somewhere: tokens as a worker reports them (0 where only the text is
    known), and how long its text is."""

    tokens: int = 0
    text_bytes: int = 0


UNKNOWN = Known()


class Lent(NamedTuple):
    """What lies in files of a host (its word) that other hosts may read at an address."""

    host: str
    address: str
    known: Known = UNKNOWN


_NO_NOTE = Note()


class Home(NamedTuple):
    """Where a conversation was last, in which of its turns that is, and in which it last changed its worker."""

    worker: str
    turn: int = 1
    moved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A worker beyond its lease. `version` counts what was ever put on its lists; `notes` are those of jobs that wait
    there. `memory` and `disk` are what it need not compute of the request's prompt, `soon` what it is about to have
    computed; `cold_s` is when it was last given a conversation that it did not know."""

    version: int = 0
    notes: Mapping[str, Note] = field(default_factory=dict)
    memory: Known = UNKNOWN
    disk: Known = UNKNOWN
    soon: Known = UNKNOWN
    cold_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One request: its id, what it asks for and `may_wait_s`, how long it may wait until its prefill begins.
    `max_waiting` is how many requests may wait for a model, those of other lanes not counted; `avoid` the workers that
    have failed this request. `text_bytes` is how long its text is, 0 while unknown; `flow` as whom it shares a
    worker's time with others; `user_worker` the one that served its user last; `now_s` is Redis's time."""

    request_id: str
    model: str
    priority: Priority
    may_wait_s: float
    max_waiting: int
    avoid: frozenset[str] = frozenset()
    kind: Kind = KINDS[Generate]
    text_bytes: int = 0
    flow: str = ""
    home: Home | None = None
    user_worker: str = ""
    now_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What is known beyond the leases. `unplaced` are the jobs that wait until a worker holds the model, by class;
    `unplaced_beside` the same by lane, for the kinds of work that have their own. `sights` are of the model's
    workers, `lent` of all hosts whose files others may read."""

    unplaced: Counts = NONE
    unplaced_beside: Mapping[str, int] = field(default_factory=dict)
    sights: Mapping[str, Sight] = field(default_factory=dict)
    lent: tuple[Lent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Seconds until the prefill begins: expected, and with luck. `is_for_place`: the batch has no place free."""

    expected_s: float
    least_s: float
    is_for_place: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What would become of the request on one worker. `wait` is None while nothing is known of it; `own_s` is the
    prefill of what has to be computed, with what comes from disk, and `first_s` the first token, both as this worker's
    predictions have come true so far. `raw_wait_s` and `raw_own_s` are from before that correction. `fetch_s` of
    `own_s` is for what comes from the files of `lender`; `unmeasured` is a host whose link is not known there yet."""

    worker: str
    wait: Wait | None
    own_s: float
    first_s: float
    raw_wait_s: float = 0.0
    raw_own_s: float = 0.0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    source: str = ""  # where the known part lies: memory, disk, soon, link
    score: float = 0.0
    busy: float = 0.0
    fetch_s: float = 0.0
    lender: Lent | None = None
    unmeasured: Lent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The list to put the job into: that of a worker and lane; of the model and lane where `worker` is empty, because
    none holds the model yet. `wait_s` is the predicted wait, None while nothing is known.

    `seen` is the worker's version on which this was decided, -1 for whatever it is by now. `prospect` is the worker's,
    `others` those of the candidates that were not taken. `note` stands beside the job while it waits."""

    lane: str
    worker: str = ""
    wait_s: float | None = None
    reason: str = ""
    seen: int = -1
    prospect: Prospect | None = None
    others: tuple[Prospect, ...] = ()
    note: Note = _NO_NOTE
    own_model: str = ""  # the model's id on the worker's host, where that is another


@dataclass(frozen=True, slots=True)
class Refused:
    error: GatewayError
