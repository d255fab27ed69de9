"""Sampling fields that clients of every dialect send under the same names, officially or through `extra_body`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects import fields
from gateway.models.sampling import RANGES
from shared.request import SamplingParams


def parse_sampling(
    body: Mapping[str, Any],
    *,
    max_tokens: int | None,
    stop: tuple[str, ...],
    top_logprobs: int | None = None,
) -> SamplingParams:
    """Raises `InvalidRequestError` for a value out of its range; null is the same as absent."""
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=_number(body, "temperature"),
        top_p=_number(body, "top_p"),
        top_k=fields.top_k(body.get("top_k"), "top_k"),
        min_p=_number(body, "min_p"),
        repetition_penalty=_repetition_penalty(body),
        presence_penalty=_number(body, "presence_penalty"),
        frequency_penalty=_number(body, "frequency_penalty"),
        stop=stop,
        logit_bias=fields.logit_bias(body.get("logit_bias"), "logit_bias"),
        top_logprobs=top_logprobs,
        seed=fields.seed(body.get("seed"), "seed"),
    )


def _number(body: Mapping[str, Any], name: str) -> float | None:
    low, high = RANGES[name]
    return fields.number(body.get(name), name, low=low, high=high)


def _repetition_penalty(body: Mapping[str, Any]) -> float | None:
    penalty = _number(body, "repetition_penalty")
    if penalty == 0:
        fields.refuse("Input should be greater than 0", "repetition_penalty")
    return penalty
