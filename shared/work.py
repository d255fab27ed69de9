"""What a worker can be asked to do: the kinds of work, and the envelope in which one travels.

A kind is a class, a row of `KINDS`, and a code in `shared.wire`. Its name is signed with every job, so that what was
signed as one kind of work is never done as another, and is part of `WorkerLease.kinds`, so that it goes to workers that
take it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared.events import Counted, Embedded, Finished, Spoken, Transcribed
from shared.keys import job_id
from shared.request import PRIORITIES, GenerateRequest, Priority, Resume


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """An answer, by the engine. `resume` makes it go on where an earlier attempt was, instead of beginning anew.
    `is_shared`: another gateway may come to hear it (`shared.request.Join`)."""

    request: GenerateRequest
    resume: Resume | None = None
    is_shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The tokens of the prompt that `Generate` would have, answered with `Counted`."""

    request: GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Vectors of texts and of rows of token ids (`pack_ids`), in this order; where there is a `query`, how relevant
    each text is to it. Answered with `Embedded`. `request` has the names and no conversation."""

    request: GenerateRequest
    texts: tuple[str, ...] = ()
    rows: tuple[bytes, ...] = ()
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcribe:
    """What is said in a sound file, in its own language or in English. `language` is a code or a name, empty where it
    is to be found out; `prompt` is text as if it had been said before; `temperature` None: greedy, and warmer where
    that fails. `with_words`: each word's time. `in_parts`: segments are told as they are made (`Heard`). Answered with
    `Transcribed`. `request` has the names and no conversation."""

    request: GenerateRequest
    sound: bytes = field(default=b"", repr=False)
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str = ""
    prompt: str = ""
    temperature: float | None = None
    with_words: bool = False
    in_parts: bool = False


SoundForm = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speak:
    """A text said aloud. `voice` is empty for the model's own; `speed` 1 is its own. Answered with `Sound` and
    `Spoken`. `request` has the names and no conversation."""

    request: GenerateRequest
    text: str = ""
    voice: str = ""
    form: SoundForm = "mp3"
    speed: float = 1.0
    instructions: str = ""


def pack_ids(ids: Sequence[int]) -> bytes:
    """Little-endian 32-bit numbers."""
    return struct.pack(f"<{len(ids)}I", *ids)


def unpack_ids(row: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(row) // 4}I", row)


Work = Generate | Count | Embed | Transcribe | Speak


# Of an answer, after which a request that was there when a worker died is no suspect any more: what kills a worker does
# so where it killed the first one.
PROBATION_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A row of `KINDS`. `name` is the wire contract. `lane` is the kind's own, for what is done beside the engine's
    batch; empty: its jobs stand in the lanes of their requests' classes and take places in the batch. `begins` is the
    state of `shared.events` in which its answer begins, `ends` the event that ends it when all went well. `is_long`:
    it may wait as long as a request of its class, not as long as a question asked in passing."""

    name: str
    lane: str = ""
    begins: str
    ends: type
    is_long: bool = False


KINDS: dict[type[Work], Kind] = {
    Generate: Kind(name="generate", begins="waiting", ends=Finished),
    Count: Kind(name="count", lane="count", begins="counting", ends=Counted),
    Embed: Kind(name="embed", lane="embed", begins="embedding", ends=Embedded),
    Transcribe: Kind(name="transcribe", lane="transcribe", begins="listening", ends=Transcribed, is_long=True),
    Speak: Kind(name="speak", lane="speak", begins="speaking", ends=Spoken, is_long=True),
}
KINDS_BY_NAME = {kind.name: kind for kind in KINDS.values()}
ENDS = tuple(kind.ends for kind in KINDS.values())
LANES_BESIDE = tuple(kind.lane for kind in KINDS.values() if kind.lane)
LANES = (*PRIORITIES, *LANES_BESIDE)  # a list for each, first served first


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Work on its way to a worker: body of `req:{id}`.

    `gateway` is where the frames go. `deadline_s` is the time by which somebody must have begun with it, in
    Redis's time (see `shared.clock`).
    `attempt` starts at 1 and is part of every frame that answers it. `codes` are those that the gateway reads; it is
    sealed for one host, whom gateway records, which only gateways can open, tell nothing. `wait_s` until the prefill
    begins and `prefill_s` were predicted at `placed_s`, in Redis's time; 0 where they were not. `grant` is leave to
    fetch a part of what is to be computed from another host (`shared.grants`); empty where there is none.
    `is_suspect`: a worker died while the request was there.
    """

    work: Work
    gateway: str
    attempt: int = 1
    deadline_s: float = 0.0
    codes: tuple[int, ...] = ()
    placed_s: float = 0.0
    wait_s: float = 0.0
    prefill_s: float = 0.0
    grant: bytes = b""
    is_suspect: bool = False

    @property
    def kind(self) -> Kind:
        return KINDS[type(self.work)]

    @property
    def request(self) -> GenerateRequest:
        return self.work.request

    @property
    def job_id(self) -> str:
        return job_id(self.work.request.id, self.attempt)

    @property
    def subject(self) -> str:
        """What its signature is about."""
        return job_subject(self.kind.name, self.job_id)


def lane_of(kind: Kind, priority: Priority) -> str:
    """Where a job of the kind waits."""
    return kind.lane or priority


def has_lane(kind: Kind, lane: str) -> bool:
    """Whether a job of the kind may wait in the lane."""
    return lane == kind.lane if kind.lane else lane in PRIORITIES


def job_subject(kind_name: str, job: str) -> str:
    """What a job's signature is about: the kind of work, and the attempt."""
    return f"{kind_name} {job}"
