"""How much memory the engine may still take: within the machine's, beside the host's other workers, and what goes
first when it is short."""

from __future__ import annotations

import time

import mlx.core as mx

from shared.cache_size import CacheSize
from shared.errors import PromptTooLongError
from worker.device.neighbours import Neighbours
from worker.device.sharing import Allowance, Holding, decide
from worker.engines.mlx.kv.store import PrefixStore
from worker.engines.mlx.memory.plan import MemoryPlan
from worker.prefix_cache.node import MAIN_WEIGHT

_PATIENCE_S = 1.0  # with what others should give up, before more of our own goes
_SHARED_REST_S = _PATIENCE_S  # others wait no longer for what is given up
_ALONE_REST_S = 2.0  # less than a newcomer takes to load
_TELL_ALONE_S = 0.05  # between tellings that only a newcomer could hear


class Room:
    """Belongs to the engine thread. Call `look` before a step's work and `tell` after it."""

    def __init__(
        self, plan: MemoryPlan, size: CacheSize, store: PrefixStore, neighbours: Neighbours | None, *, weight_bytes: int
    ) -> None:
        """`neighbours` None: the host has no other workers."""
        self._plan = plan
        self._size = size
        self._store = store
        self._neighbours = neighbours
        self._base_bytes = weight_bytes
        self._growth_bytes = 0
        self._others: list[Holding] = []
        self._refused_bytes = 0  # what a request asked for in this step and did not get
        self._since_s = 0.0
        self._told_s = 0.0
        self._allowance = self._decide()

    # -- the step's ends ------------------------------------------------------------------------------------------

    def look(self, growth_bytes: int) -> None:
        """See what the others hold. `growth_bytes` is what the caches of requests that were begun will grow by."""
        self._growth_bytes = growth_bytes
        self._others = self._neighbours.others() if self._neighbours is not None else []
        self._refused_bytes = 0
        self._allowance = self._decide()
        inside = mx.get_active_memory() - self._store.nbytes + growth_bytes
        self._store.budget_bytes = max(0, self._allowance.limit_bytes - inside)

    def tell(self, *, is_idle: bool) -> None:
        """Let the others know what is held now."""
        if is_idle:
            self._base_bytes = max(0, mx.get_active_memory() - self._store.nbytes)
            self._growth_bytes = 0
        if not self._refused_bytes:
            self._since_s = 0.0
        elif not self._since_s:
            self._since_s = time.monotonic()
        if self._others and self._used_bytes() > self._allowance.limit_bytes:
            mx.clear_cache()
        now_s = time.monotonic()
        if self._neighbours is not None and (self._others or is_idle or now_s - self._told_s > _TELL_ALONE_S):
            self._told_s = now_s
            self._neighbours.publish(self._holding(self._refused_bytes))

    # -- questions ------------------------------------------------------------------------------------------------

    @property
    def limit_bytes(self) -> int:
        """What may be in use now."""
        return self._allowance.limit_bytes

    @property
    def neighbour_bytes(self) -> int:
        """What the host's other workers hold."""
        return sum(other.held_bytes for other in self._others)

    @property
    def free_bytes(self) -> int:
        """Beyond what requests that were begun will need."""
        return max(0, self._room_bytes())

    @property
    def is_shared(self) -> bool:
        return bool(self._others)

    @property
    def rest_s(self) -> float:
        """Until an idle worker looks again whether others need what it holds, and who they are."""
        return _SHARED_REST_S if self.is_shared else _ALONE_REST_S

    @property
    def is_refusing(self) -> bool:
        """Whether a request had to wait for memory in this step."""
        return self._refused_bytes > 0

    def check_fits(self, tokens: int, context_tokens: int) -> int:
        """How many tokens may follow a prompt of `tokens`, of `context_tokens` in all at most. Raises
        `PromptTooLongError` when it could not fit even if the other workers did nothing but stay loaded."""
        if self._others and self._neighbours is not None and self._size.predict(tokens + 1) > self._left_bytes():
            self._others = self._neighbours.others(is_exact=True)
            self._allowance = self._decide()
        if not self._others:
            return context_tokens - tokens
        left_bytes = self._left_bytes()
        fitting = self._size.fitting_tokens(left_bytes)
        if tokens < fitting:
            return min(context_tokens, fitting) - tokens
        error = PromptTooLongError.of(tokens, fitting)
        raise PromptTooLongError(
            f"{error.message}: it takes {self._size.predict(tokens) >> 20} MB of memory, and the other models loaded "
            f"on this host leave {left_bytes >> 20} MB",
            **error.details,
        )

    def _left_bytes(self) -> int:
        """What requests could have if the other workers did nothing but stay loaded."""
        return max(0, self._allowance.most_bytes - self._base_bytes)

    # -- making room ----------------------------------------------------------------------------------------------

    def relieve(self) -> bool:
        """Come down to what may be kept, by freed buffers and kept prefixes. Whether that was enough."""
        if self._excess_bytes() <= 0:
            return True
        mx.clear_cache()
        excess = self._excess_bytes()
        if excess > 0:
            self._store.shrink(max(0, self._store.nbytes - excess))
        return self._excess_bytes() <= 0

    @property
    def is_over(self) -> bool:
        """Whether `relieve` has something to give up, and should."""
        return self._excess_bytes() > 0 and bool(self._store.nbytes or mx.get_cache_memory())

    def _excess_bytes(self) -> int:
        return self._used_bytes() - self._allowance.keep_bytes

    def make(self, wanted_bytes: int, *, weight: float, is_alone: bool) -> bool:
        """Whether a request that takes `wanted_bytes` may begin, after evicting kept prefixes if need be: not the main
        conversations' for a lesser request, whose `weight` is less, as long as others run that will end. Nothing can
        be done for one that runs alone, and beside idle workers that hold nothing: it may."""
        if wanted_bytes <= self._room_bytes():
            return True
        mx.clear_cache()
        self._allowance = self._decide(wanted_bytes)
        missing = wanted_bytes - self._room_bytes()
        if missing > 0:
            is_patient = self._others and time.monotonic() - (self._since_s or time.monotonic()) < _PATIENCE_S
            least = self._allowance.spare_bytes if is_patient else 0
            self._store.shrink(max(least, self._store.nbytes - missing), weight=MAIN_WEIGHT if is_alone else weight)
        is_waiting_worth = any(other.running_bytes or other.spare_bytes for other in self._others)
        if wanted_bytes <= self._room_bytes() or (is_alone and not is_waiting_worth):
            return True
        self._refused_bytes = max(self._refused_bytes, wanted_bytes)
        return False

    def _room_bytes(self) -> int:
        return self._allowance.limit_bytes - self._used_bytes() - self._growth_bytes

    def _used_bytes(self) -> int:
        """Freed buffers count where others could use them; alone, mlx takes them before it asks for more."""
        return mx.get_active_memory() + (mx.get_cache_memory() if self._others else 0)

    # -- figures --------------------------------------------------------------------------------------------------

    def _decide(self, wanted_bytes: int = 0) -> Allowance:
        limit = self._plan.limit_bytes
        if not self._others:
            return Allowance(limit_bytes=limit, keep_bytes=limit, spare_bytes=limit, most_bytes=limit)
        return decide(limit, self._holding(wanted_bytes), self._others)

    def _holding(self, wanted_bytes: int) -> Holding:
        kept = self._store.nbytes
        since_s = self._since_s or time.monotonic()
        running = max(0, mx.get_active_memory() - kept - self._base_bytes) + self._growth_bytes
        return Holding(
            base_bytes=self._base_bytes,
            running_bytes=running,
            spare_bytes=kept + mx.get_cache_memory(),
            wanted_bytes=wanted_bytes,
            since_s=since_s if wanted_bytes else 0.0,
        )
