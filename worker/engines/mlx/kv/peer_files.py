"""What other hosts have of prompts: asked for before a prompt is rendered, fetched into the tier's folder while its
request waits, and hung into the tree as if an earlier process had stored it here.

Where that is sooner the files come from the end, while the prompt is computed from its front until both meet: what
later tokens were computed to be does not depend on how earlier ones came to be here. It takes `1 / (1 / fetch + 1 /
compute)` seconds. So it is only where prefixes can be resumed anywhere: of windows and states one needs the last.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from shared.config import Settings
from shared.cost import PrefillCost
from shared.grants import Grant
from shared.trail import decode_trail
from worker.cache_files.arrival import Arrival, Patience
from worker.cache_files.file_format import FileInfo
from worker.cache_files.matching import leading_along, whole_prefixes
from worker.cache_files.peers import Offer, Peers
from worker.engines.mlx.kv.answers import spelling_in
from worker.engines.mlx.kv.store import PrefixStore
from worker.prefix_cache.node import tenant_seed
from worker.prompt import Spelling

_LEAST_GAIN_S = 0.5


def locate(
    peers: Peers, grant: Grant, *, fingerprint: bytes, tenant: str, trail: bytes, learn: Callable[[Spelling], None]
) -> Offer | None:
    """On any thread. What the peer has of a prompt; how the answers in it were spelt is learnt at once, so that the
    prompt is rendered as it was. Where there is nothing to fetch, the link is measured instead."""
    if not grant.tokens:
        peers.measure_soon(grant)
        return None
    tags = decode_trail(trail)
    heads = [*reversed(tags.tools_first), *reversed(tags.system_first)]
    offer = peers.locate(grant, tenant_seed(fingerprint, tenant), tags.messages[::-1], heads)
    whole = whole_prefixes(offer.infos) if offer is not None else {}
    for info in offer.infos if offer is not None else ():
        for span in info.answers if info.key in whole else ():
            learn(spelling_in(span, whole[info.key]))
    return offer


@dataclass(slots=True, eq=False)
class Awaited:
    """What a request waits for."""

    arrival: Arrival
    patience: Patience
    is_left: bool = False  # nobody waits any more


def gain_s(missing: Sequence[FileInfo], start: int, rate: float, cost: PrefillCost) -> float:
    """Seconds that computing the first of these files, from `start` on, saves while the others come at `rate` bytes per
    second; less than none where what is begun would all have come before it is computed. Who computes a file computes
    all of it."""
    fetch_s = [info.nbytes / rate for info in missing]
    ends = (max(cost.predict_s(start, missing[n].start), sum(fetch_s[n:])) for n in range(1, len(missing)))
    return sum(fetch_s) - min(ends, default=math.inf)


class PeerFiles:
    """Belongs to the engine thread; the peers' threads fetch."""

    def __init__(
        self, store: PrefixStore, peers: Peers | None, cost: Callable[[], PrefillCost], settings: Settings
    ) -> None:
        """Fewer than `cache_min_reuse_tokens` are not fetched."""
        self._store = store
        self._peers = peers
        self._cost = cost
        self._least_tokens = settings.cache_min_reuse_tokens
        self._running: list[Awaited] = []
        self.least_gain_s = _LEAST_GAIN_S

    def begin(self, offer: Offer, tenant: str, packed: bytes) -> Awaited | None:
        """Fetch of the offer what leads further along the prompt than what is kept here. None when nothing does."""
        if self._peers is None:
            return None
        wanted, furthest = leading_along(offer.infos, packed, is_divisible=self._store.index.is_divisible)
        known = self._store.peek(tenant, packed)
        missing = [info for info in wanted if info.end > known]
        if not missing or furthest - known < self._least_tokens:
            self._peers.decline(offer)
            return None
        other = self._bringing({info.key for info in missing})
        if other is not None:
            self._peers.decline(offer)
            return None if other.arrival.is_from_end else other  # the former is of use once both have met
        both = self._is_both(offer.grant.peer, missing, known)
        arrival = self._peers.fetch(offer, missing, start=known, end=furthest, is_from_end=both)
        awaited = Awaited(arrival, Patience(arrival))
        self._running.append(awaited)
        return awaited

    def _bringing(self, keys: Set[bytes]) -> Awaited | None:
        """Who waits for one of these files already."""
        for other in self._running:
            if not keys.isdisjoint({info.key for info in other.arrival.wanted}):
                return other
        return None

    def _is_both(self, peer: str, missing: Sequence[FileInfo], start: int) -> bool:
        """Whether to compute meanwhile gains enough: chunks make others wait."""
        assert self._peers is not None
        rate, cost = self._peers.rates().get(peer, 0.0), self._cost()
        if not (rate and cost.is_known and self._store.index.is_divisible):
            return False
        return gain_s(missing, start, rate, cost) >= self.least_gain_s

    # -- while it comes -------------------------------------------------------------------------------------------

    def is_awaited(self, awaited: Awaited) -> bool:
        """Whether to go on waiting. When all is there that will come, it is in the tree."""
        return awaited in self._running

    def holds_up(self, awaited: Awaited, position: int) -> bool:
        """Whether to wait for what is on its way for `position`, of one from the end. Where to compute it is sooner, no
        more is fetched: both meet where that begins which is here."""
        arrival = awaited.arrival
        if not arrival.is_coming_at(position) or arrival.is_slow:
            return False
        if awaited.patience.is_nearly_here(time.monotonic(), self._cost()):
            return True
        arrival.give_up()
        return False

    def has_met(self, awaited: Awaited, position: int) -> bool:
        """Whether what came from the end begins where the prompt is known to, or before."""
        return awaited.arrival.depth <= position

    def take_in(self, awaited: Awaited) -> None:
        """Hang what came from the end below what was computed; what does not hang together is of no use."""
        if awaited in self._running:
            self._running.remove(awaited)
            self._store.take_in(sorted(awaited.arrival.arrived, key=lambda info: info.start))

    def leave(self, awaited: Awaited | None) -> None:
        """Who waited is gone. What comes from the start is for the next; what comes from the end hangs nowhere."""
        if awaited is not None and awaited.arrival.is_from_end:
            awaited.is_left = True
            awaited.arrival.give_up()

    @property
    def has_arrived(self) -> bool:
        """Whether `collect` would change the tree, which may cut what lies on the device."""
        has_taken_over = self._peers is not None and self._peers.has_taken_over
        return has_taken_over or any(
            awaited.arrival.is_over and not awaited.arrival.is_from_end for awaited in self._running
        )

    def collect(self) -> None:
        """Take in what has come, and wait no longer where to compute is sooner. Cheap when there is nothing."""
        if self._peers is not None and self._peers.has_taken_over:
            self._store.take_in(self._peers.taken_over())
        now_s = time.monotonic()
        for awaited in list(self._running):
            arrival = awaited.arrival
            if arrival.is_from_end and awaited.is_left and arrival.is_over:
                self.take_in(awaited)
            elif arrival.is_from_end:
                awaited.patience.look(now_s)
            elif arrival.is_over:
                self._running.remove(awaited)
                self._store.take_in(arrival.arrived)
            elif not arrival.is_slow and awaited.patience.is_used_up(now_s, self._cost()):
                arrival.give_up()
