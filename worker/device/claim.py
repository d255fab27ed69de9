"""Memory for a model that is about to be loaded, asked of the host's other workers."""

from __future__ import annotations

import time

from shared.errors import NoMemoryError
from worker.device.neighbours import Neighbours
from worker.device.sharing import Holding

_WAIT_S = 3.0
_POLL_S = 0.05


def claim(neighbours: Neighbours | None, weight_bytes: int, limit_bytes: int) -> None:
    """Take the memory that a model's weights need, and wait for a moment until the others have given up what they keep
    beyond their own. Of two workers that claim at the same time one comes first, and keeps what it got. Raises
    `NoMemoryError`, with the numbers, when all the weights do not fit together."""
    if neighbours is None:
        _check(weight_bytes, [], limit_bytes)
        return
    with neighbours.claiming():
        _check(weight_bytes, neighbours.others(is_exact=True), limit_bytes)
        neighbours.publish(Holding(base_bytes=weight_bytes))
    until_s = time.monotonic() + _WAIT_S
    while time.monotonic() < until_s:
        if weight_bytes + sum(other.held_bytes for other in neighbours.others()) <= limit_bytes:
            return
        time.sleep(_POLL_S)


def _check(weight_bytes: int, others: list[Holding], limit_bytes: int) -> None:
    theirs_bytes = sum(other.base_bytes for other in others)
    free_bytes = max(0, limit_bytes - theirs_bytes)
    if weight_bytes > free_bytes:
        raise NoMemoryError(
            f"not enough memory: its weights take {weight_bytes >> 20} MB, those of the {len(others)} other models on "
            f"this host {theirs_bytes >> 20} MB, and {limit_bytes >> 20} MB may be used in all",
            needed_bytes=weight_bytes,
            free_bytes=free_bytes,
            limit_bytes=limit_bytes,
        )
