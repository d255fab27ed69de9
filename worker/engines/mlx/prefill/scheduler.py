"""Which prompt is prefilled next and in how large a piece. Pure decisions; the engine does the work.

Order. A candidate's score is the seconds its uncached tokens will take, plus a handicap for its priority class, less
a share of the seconds it has waited; the lowest score goes first. So short prompts overtake long ones, and waiting
wins in the end against any length and any class.

Size. While streams run, a chunk and a decode step may take the stall target, by the time that one pass in a hundred
exceeds. Where no useful chunk is that short, the target is missed anyway, and a chunk is as large as makes the pass
worth its fixed cost. When nothing runs, a chunk is larger, but still short enough that a new arrival or a cancellation
is seen soon.

Share. Between two chunks streams decode for a share of the time, so that a long prompt leaves them more than a token
per chunk. Streams of lesser classes than the prompt's have that one token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.request import PRIORITIES, Priority
from worker.engines.mlx.prefill.meter import PrefillMeter

HANDICAP_S: dict[Priority, float] = {"interactive": 0.0, "subagent": 1.0, "side": 2.0, "batch": 20.0}
AGEING = 0.25  # seconds of work that one second of waiting makes up for
MIN_CHUNK_TOKENS = 32
FIRST_CHUNK_TOKENS = 256  # before anything was measured
FIRST_BESIDE_TOKENS = 32  # the same while streams run
GRANULE_TOKENS = 32
EFFICIENT_SHARE = 0.5  # of the rate that endless passes would have
WORST = 1.35  # of a pass, over what one in a hundred takes
DECODE_SHARE = 0.15  # of the time, while prompts wait
MAX_GROWTH = 2.0  # of one chunk over the largest measured so far
IDLE_STALL_FACTOR = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A prompt that could be prefilled now. `depth` tokens of it are done or cached, `uncached_tokens` are not."""

    key: str
    priority: Priority
    depth: int
    uncached_tokens: int
    waited_s: float


def pick(candidates: Iterable[Candidate], meter: PrefillMeter) -> Candidate | None:
    """The prompt to go on with."""
    return min(candidates, key=lambda c: (_score(c, meter), c.key), default=None)


def _score(candidate: Candidate, meter: PrefillMeter) -> float:
    work_s = meter.predict_s(candidate.depth, candidate.depth + candidate.uncached_tokens)
    return work_s + HANDICAP_S[candidate.priority] - AGEING * candidate.waited_s


def chunk_tokens(
    meter: PrefillMeter, *, depth: int, is_decoding: bool, decode_step_s: float, stall_target_s: float, max_tokens: int
) -> int:
    """The size of the next chunk of a prompt of which `depth` tokens are done."""
    if not meter.largest:
        return min(FIRST_BESIDE_TOKENS if is_decoding else FIRST_CHUNK_TOKENS, max_tokens)
    if is_decoding:
        fitting = _beside_tokens(meter, depth, decode_step_s, stall_target_s)
    else:
        fitting = meter.cost.fitting_tokens(depth, stall_target_s * IDLE_STALL_FACTOR)
    tokens = min(fitting, int(meter.largest * MAX_GROWTH), max_tokens)
    return max(MIN_CHUNK_TOKENS, tokens // GRANULE_TOKENS * GRANULE_TOKENS)


def _beside_tokens(meter: PrefillMeter, depth: int, decode_step_s: float, stall_target_s: float) -> int:
    """Tokens that fit into the target beside a decode step. Where no useful number does, those that are worth their
    pass, but no more than fit into twice the target, unless no useful number does that either."""
    efficient = meter.cost.efficient_tokens(depth, EFFICIENT_SHARE)
    efficient = -(-efficient // GRANULE_TOKENS) * GRANULE_TOKENS
    for target_s, margin, most in (
        (stall_target_s, meter.excess, None),
        (2 * stall_target_s, meter.excess * WORST, efficient),
    ):
        fitting = meter.cost.fitting_tokens(depth, target_s / margin - decode_step_s)
        if fitting >= MIN_CHUNK_TOKENS:
            return fitting if most is None else min(fitting, most)
        if meter.cost.fitting_tokens(depth, target_s - decode_step_s) >= MIN_CHUNK_TOKENS:
            return MIN_CHUNK_TOKENS  # keeps it more often than not
    return efficient


def owes_share(prompt: Priority, streams: Iterable[Priority]) -> bool:
    """Whether a prompt leaves streams of these classes their share: only those before it or beside it."""
    return any(PRIORITIES.index(stream) <= PRIORITIES.index(prompt) for stream in streams)


class DecodeShare:
    """Whether streams have had their share of the time since the last chunk."""

    def __init__(self) -> None:
        self._owed_s = 0.0

    @property
    def is_paid(self) -> bool:
        return self._owed_s <= 0

    def chunk(self, seconds: float) -> None:
        """A chunk took that long. One decode step belongs to it in any case."""
        self._owed_s = seconds * DECODE_SHARE / (1 - DECODE_SHARE)

    def step(self, seconds: float) -> None:
        """Streams had a step of that length."""
        self._owed_s -= seconds
