"""How long a conversation may be, and how many at once: what memory leaves, shared out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_CONTEXT_TOKENS = 32768  # where a person says nothing; most models take more, at the price of memory
_DEFAULT_SLOTS = 4
_CACHE_SHARE = 0.8  # of what the weights leave: the rest is for what passes compute
_LEAST_TOKENS = 8192  # rather fewer slots than less for each
_STEP_TOKENS = 256  # the server rounds a window up to such steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """`context_tokens` of each of the `slots`."""

    context_tokens: int
    slots: int

    @property
    def total_tokens(self) -> int:
        return self.context_tokens * self.slots


def plan_window(
    *, trained_tokens: int, token_bytes: int, free_bytes: int, wanted_tokens: int = 0, slots: int = 0
) -> Window:
    """What a person set (0: nothing) counts; the rest is as much as fits. A window beyond what the model was trained
    for is never made."""
    wanted = min(trained_tokens, wanted_tokens or DEFAULT_CONTEXT_TOKENS)
    fitting = int(free_bytes * _CACHE_SHARE) // max(1, token_bytes)
    if wanted_tokens:
        fitting = max(fitting, wanted * max(1, slots))
    count = slots or max(1, min(_DEFAULT_SLOTS, fitting // min(wanted, _LEAST_TOKENS)))
    each = min(wanted, fitting // count)
    return Window(context_tokens=max(_STEP_TOKENS, each - each % _STEP_TOKENS if each < wanted else each), slots=count)
