"""How much a worker takes off its lists at a time: a pure decision.

A worker takes no more than it can begin: as many requests as it has places, and no further prompts while those that it
holds will take `AHEAD_S` to prefill. What is left on its lists can still be moved, ordered and shared out; what is in
the engine cannot. How long a prompt on a list will take is what was predicted when it was placed, else what its body's
size says: of a conversation that is in the cache only the end is computed.

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
UNBOUNDED_S = 1e9


@dataclass(frozen=True, slots=True)
class Quota:
    """For the list of one lane: how many jobs may be started in all, those of higher classes included where it is that
    of a class, and how many seconds of their prefill may have been started before one more is."""

    most: int
    ahead_s: float


def s_per_byte_at(prefill_tokens_per_s: float) -> float:
    """What a byte of a body takes to prefill; 0 while the pace is unknown."""
    return _TOKENS_PER_BYTE / prefill_tokens_per_s if prefill_tokens_per_s else 0.0


def prefill_ahead_s(waiting_s: Sequence[float], on_the_way_s: Sequence[float]) -> tuple[float, ...]:
    """Predicted prefill of what was taken, by class: what the engine has, and what is on its way there."""
    in_engine_s = waiting_s or [0.0] * len(PRIORITIES)
    return tuple(ahead_s + coming_s for ahead_s, coming_s in zip(in_engine_s, on_the_way_s, strict=True))


def quotas(*, capacity: int, reserved: int, held: Counts, ahead_s: Sequence[float]) -> list[Quota]:
    """For each class. `reserved` places beyond the capacity are there for the first one. `held` counts the requests
    that run or are prepared, `ahead_s` are the predicted seconds of prefill that those of each class still need."""
    totals_s = accumulate(ahead_s or [float(count) for count in NONE])
    return [
        Quota(free_places(capacity, held, priority, reserved=reserved), max(0.0, AHEAD_S - ahead))
        for priority, ahead in zip(PRIORITIES, totals_s, strict=True)
    ]


def quotas_beside(threads: Mapping[str, int], held: Mapping[str, int]) -> list[Quota]:
    """For each lane of a kind of work that is done beside the batch, by `threads` at once."""
    return [Quota(max(0, threads[lane] - held[lane]), UNBOUNDED_S) for lane in LANES_BESIDE]


def may_take(allowed: Sequence[Quota], waiting: Sequence[int] | None = None) -> bool:
    """Whether asking for jobs could bring one: there is a list that holds some, of which more may be started. `waiting`
    is how many each holds, in the order of `allowed`; None while new ones may lie on any."""
    held = waiting if waiting is not None else [1] * len(allowed)
    return any(quota.most > 0 and quota.ahead_s > 0 and count > 0 for quota, count in zip(allowed, held, strict=True))
