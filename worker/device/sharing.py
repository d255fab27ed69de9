"""How the workers of one host share its memory. Pure decisions, the same in every worker that sees the same figures.

Every worker has a share: what its model needs to stay loaded, and an equal part of what all models leave. It may use
more while nobody wants it, and can always claim its share back. What is given up first is what can be had again: kept
prefixes, those beyond their owner's share before others. What requests hold beyond their worker's share goes only to
requests within theirs. Requests beyond a share are served in the order in which they began to wait, each with its
whole need, so that two never block each other with half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one worker holds, in bytes. `base` stays as long as its model is loaded; `running` is what requests that
    were begun hold and are expected to grow by; `spare` can be given up at any moment: kept prefixes and freed
    buffers. `wanted` is what its next request takes in addition, since `since_s` by the host's monotonic clock."""

    base_bytes: int
    running_bytes: int = 0
    spare_bytes: int = 0
    wanted_bytes: int = 0
    since_s: float = 0.0

    @property
    def held_bytes(self) -> int:
        return self.base_bytes + self.running_bytes + self.spare_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one worker may do. It must come down to `keep_bytes` in all, its spare first, of which `spare_bytes` may
    stay; it may grow up to `limit_bytes`, which is less while others have not given up what they must. `most_bytes`
    is what it could have if the others did nothing but stay loaded."""

    limit_bytes: int
    keep_bytes: int
    spare_bytes: int
    most_bytes: int


def decide(limit_bytes: int, mine: Holding, others: Sequence[Holding]) -> Allowance:
    """`limit_bytes` is what all workers of the host may use together."""
    needed, spare, left = _allot(limit_bytes, [mine, *others])
    keep = needed[0] + spare[0] + left
    theirs = sum(other.held_bytes for other in others)
    return Allowance(
        limit_bytes=max(0, min(keep, limit_bytes - theirs)),
        keep_bytes=keep,
        spare_bytes=spare[0] + left,
        most_bytes=max(0, limit_bytes - sum(other.base_bytes for other in others)),
    )


def shares(limit_bytes: int, holdings: Sequence[Holding]) -> list[int]:
    """What each worker can always claim."""
    base = sum(holding.base_bytes for holding in holdings)
    each = max(0, limit_bytes - base) // len(holdings)
    return [holding.base_bytes + each for holding in holdings]


def _allot(limit_bytes: int, holdings: Sequence[Holding]) -> tuple[list[int], list[int], int]:
    """For each worker the bytes for its model and its requests, and those for its spare; and what nobody needs."""
    share = shares(limit_bytes, holdings)
    need = [holding.base_bytes + holding.running_bytes for holding in holdings]
    claim = [n + holding.wanted_bytes for n, holding in zip(need, holdings, strict=True)]
    # A request that goes beyond its worker's share takes its turn as a whole: half of it would only block others.
    got = [c if c <= s else min(n, s) for c, n, s in zip(claim, need, share, strict=True)]
    left = max(0, limit_bytes - sum(got))
    left = _add(got, fill([max(0, n - g) for n, g in zip(need, got, strict=True)], left), left)
    for index in sorted(range(len(holdings)), key=lambda i: (holdings[i].since_s, holdings[i].base_bytes)):
        more = min(left, claim[index] - got[index]) if holdings[index].wanted_bytes else 0
        got[index] += more
        left -= more
    spare = [0] * len(holdings)
    within = [min(holding.spare_bytes, max(0, s - g)) for holding, s, g in zip(holdings, share, got, strict=True)]
    left = _add(spare, fill(within, left), left)
    beyond = [holding.spare_bytes - kept for holding, kept in zip(holdings, spare, strict=True)]
    left = _add(spare, fill(beyond, left), left)
    return got, spare, left


def _add(totals: list[int], parts: Sequence[int], left: int) -> int:
    for index, part in enumerate(parts):
        totals[index] += part
    return left - sum(parts)


def fill(wants: Sequence[int], budget: int) -> list[int]:
    """`budget` divided so that nobody who gets less than wanted gets less than another (max-min fairness)."""
    given = [0] * len(wants)
    order = sorted(range(len(wants)), key=lambda index: wants[index])
    for place, index in enumerate(order):
        given[index] = min(wants[index], budget // (len(order) - place))
        budget -= given[index]
    return given
