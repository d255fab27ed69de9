"""What is noted of a job while it waits on a worker's list: gateways predict waits by it, workers take by it."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

CLAIMED = "!"  # before the note of a job that was claimed and is in no lease yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`prefill_s` is the predicted prefill, 0 where nothing was predicted. `score` orders the list, lowest first.
    `flow` is who shares the worker with others: a conversation."""

    lane: str = ""
    prefill_s: float = 0.0
    score: float = 0.0
    flow: str = ""
    is_claimed: bool = False

    def text(self) -> str:
        """As it stands in Redis."""
        return f"{self.lane} {self.prefill_s:.6g} {self.score:.6f} {self.flow}"


def read_note(text: str) -> Note:
    """Nothing is noted where the text is none of ours."""
    words = text.removeprefix(CLAIMED).split(" ")
    if len(words) == 4:
        with contextlib.suppress(ValueError):
            prefill_s, score = float(words[1]), float(words[2])
            if math.isfinite(score) and 0 <= prefill_s < math.inf:
                is_claimed = text.startswith(CLAIMED)
                return Note(lane=words[0], prefill_s=prefill_s, score=score, flow=words[3], is_claimed=is_claimed)
    return Note()
