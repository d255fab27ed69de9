"""What was predicted of a request where it was placed, and what came: pure, for log, metrics and people."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from gateway.dispatch.facts import Placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Seconds since the job was put on the worker's list, None for what did not come to be; tokens of the prompt."""

    worker: str
    reason: str
    predicted_wait_s: float
    predicted_first_s: float
    predicted_cached_tokens: int
    wait_s: float | None
    first_s: float | None
    cached_tokens: int
    input_tokens: int

    @property
    def text(self) -> str:
        came = ", ".join("-" if each is None else f"{each:.2f} s" for each in (self.wait_s, self.first_s))
        return (
            f"on {self.worker} ({self.reason}): predicted {self.predicted_wait_s:.2f} s of wait, first token after "
            f"{self.predicted_first_s:.2f} s, {self.predicted_cached_tokens} tokens cached; it was {came}, "
            f"{self.cached_tokens}"
        )

    def encode(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return orjson.dumps(
            {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
        )


def outcome_at(
    place: Placed, *, wait_s: float | None, first_s: float | None, cached_tokens: int, input_tokens: int
) -> Outcome | None:
    """None where nothing was predicted."""
    prospect = place.prospect
    if prospect is None or prospect.wait is None:
        return None
    return Outcome(
        worker=place.worker,
        reason=place.reason,
        predicted_wait_s=prospect.first_s - prospect.own_s,
        predicted_first_s=prospect.first_s,
        predicted_cached_tokens=prospect.cached_tokens,
        wait_s=wait_s,
        first_s=first_s,
        cached_tokens=cached_tokens,
        input_tokens=input_tokens,
    )
