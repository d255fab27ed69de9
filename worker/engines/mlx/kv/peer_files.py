"""What other hosts have of prompts: asked for before a prompt is rendered, fetched into the tier's folder while its
request waits, and hung into the tree as if an earlier process had stored it here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.cost import PrefillCost
from shared.grants import Grant
from shared.trail import decode_trail
from worker.cache_files.arrival import Arrival, Patience
from worker.cache_files.matching import leading_along, whole_prefixes
from worker.cache_files.peers import Offer, Peers
from worker.engines.mlx.kv.answers import spelling_in
from worker.engines.mlx.kv.store import PrefixStore
from worker.prefix_cache.node import tenant_seed
from worker.prompt import Spelling


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


class PeerFiles:
    """Belongs to the engine thread; the peers' threads fetch."""

    def __init__(
        self, store: PrefixStore, peers: Peers | None, cost: Callable[[], PrefillCost], least_tokens: int
    ) -> None:
        """`least_tokens`: fewer are not fetched."""
        self._store = store
        self._peers = peers
        self._cost = cost
        self._least_tokens = least_tokens
        self._running: list[Awaited] = []

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
        keys = {info.key for info in missing}
        for other in self._running:
            if keys & {info.key for info in other.arrival.wanted}:
                self._peers.decline(offer)
                return other  # it is on its way for another request
        arrival = self._peers.fetch(offer, missing, start=known, end=furthest)
        awaited = Awaited(arrival, Patience(arrival))
        self._running.append(awaited)
        return awaited

    def is_awaited(self, awaited: Awaited) -> bool:
        """Whether to go on waiting. When all is there that will come, it is in the tree."""
        return awaited in self._running

    @property
    def has_arrived(self) -> bool:
        """Whether `collect` would change the tree, which may cut what lies on the device."""
        return any(awaited.arrival.is_over for awaited in self._running)

    def collect(self) -> None:
        """Take in what has come, and wait no longer where to compute is sooner. Cheap when there is nothing."""
        now_s = time.monotonic()
        for awaited in list(self._running):
            arrival = awaited.arrival
            if arrival.is_over:
                self._running.remove(awaited)
                self._store.take_in(arrival.arrived)
            elif not arrival.is_slow and awaited.patience.is_used_up(now_s, self._cost()):
                arrival.give_up()
