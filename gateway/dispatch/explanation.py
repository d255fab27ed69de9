"""Why a request was placed where it was, for people: pure, from the decision to JSON."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dispatch.facts import Placed, Prospect


def explain(place: Placed) -> bytes:
    """Empty where there was nothing to decide on."""
    if place.prospect is None:
        return b""
    candidates = [describe(each) for each in (place.prospect, *place.others)]
    return orjson.dumps({"worker": place.worker, "reason": place.reason, "candidates": candidates})


def describe(prospect: Prospect) -> dict[str, Any]:
    """Seconds are rounded: they are predictions."""
    return {
        "worker": prospect.worker,
        "wait_s": None if prospect.wait is None else round(prospect.wait.expected_s, 3),
        "prefill_s": round(prospect.own_s, 3),
        "first_s": round(prospect.first_s, 3),
        "prompt_tokens": prospect.prompt_tokens,
        "cached_tokens": prospect.cached_tokens,
        "cached_in": prospect.source if prospect.lender is None else f"files of {prospect.lender.host}",
        "fetch_s": round(prospect.fetch_s, 3),
    }
