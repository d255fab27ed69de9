"""How much a worker takes off its lists at a time: a pure decision.

A worker takes no more than it can begin: as many requests as it has places, and no further prompts while those that it
holds will take `AHEAD_S` to prefill. What is left on its lists can still be moved, ordered and shared out; what is in
the engine cannot. How long a prompt on a list will take is not known before it is tokenised, but its body's size is a
bound: of a conversation that is in the cache only the end is computed.

What is done beside the batch takes no place in it and is not held back by prompts: each such lane has threads of its
own, and no more is taken than they can begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from shared.places import NONE, Counts, free_places
from shared.request import PRIORITIES
from shared.work import LANES_BESIDE

AHEAD_S = 2.0
_TOKENS_PER_BYTE = 0.3  # of a body: about what text in most languages takes
UNBOUNDED = 2**53  # the largest integer that a script counts exactly


@dataclass(frozen=True, slots=True)
class Quota:
    """For the list of one lane: how many jobs may be started in all, those of higher classes included where it is that
    of a class, and how many bytes of their bodies may have been started before one more is."""

    most: int
    ahead_bytes: int


def s_per_byte_at(prefill_tokens_per_s: float) -> float:
    """What a byte of a body takes to prefill; 0 while the pace is unknown."""
    return _TOKENS_PER_BYTE / prefill_tokens_per_s if prefill_tokens_per_s else 0.0


def prefill_ahead_s(waiting_s: Sequence[float], bytes_on_the_way: Sequence[int], s_per_byte: float) -> list[float]:
    """Predicted prefill of what was taken, by class: what the engine has, and what is on its way there."""
    in_engine_s = waiting_s or [0.0] * len(PRIORITIES)
    return [ahead_s + size * s_per_byte for ahead_s, size in zip(in_engine_s, bytes_on_the_way, strict=True)]


def quotas(*, capacity: int, reserved: int, held: Counts, ahead_s: Sequence[float], s_per_byte: float) -> list[Quota]:
    """For each class. `reserved` places beyond the capacity are there for the first one. `held` counts the requests
    that run or are prepared, `ahead_s` are the predicted seconds of prefill that those of each class still need,
    `s_per_byte` is what a byte of a body takes, 0 while unknown."""
    totals_s = accumulate(ahead_s or [float(count) for count in NONE])
    return [
        Quota(free_places(capacity, held, priority, reserved=reserved), _bytes_in(AHEAD_S - ahead, s_per_byte))
        for priority, ahead in zip(PRIORITIES, totals_s, strict=True)
    ]


def quotas_beside(threads: Mapping[str, int], held: Mapping[str, int]) -> list[Quota]:
    """For each lane of a kind of work that is done beside the batch, by `threads` at once."""
    return [Quota(max(0, threads[lane] - held[lane]), UNBOUNDED) for lane in LANES_BESIDE]


def _bytes_in(seconds: float, s_per_byte: float) -> int:
    if seconds <= 0:
        return 0
    return UNBOUNDED if s_per_byte <= 0 else max(1, int(min(UNBOUNDED, seconds / s_per_byte)))
