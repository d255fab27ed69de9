"""Sampling fields that clients of every dialect send under the same names, officially or through `extra_body`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects import fields
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
        temperature=fields.number(body.get("temperature"), "temperature", low=0, high=2),
        top_p=fields.number(body.get("top_p"), "top_p", low=0, high=1),
        top_k=fields.top_k(body.get("top_k"), "top_k"),
        min_p=fields.number(body.get("min_p"), "min_p", low=0, high=1),
        repetition_penalty=_repetition_penalty(body.get("repetition_penalty")),
        presence_penalty=fields.number(body.get("presence_penalty"), "presence_penalty", low=-2, high=2),
        frequency_penalty=fields.number(body.get("frequency_penalty"), "frequency_penalty", low=-2, high=2),
        stop=stop,
        logit_bias=fields.logit_bias(body.get("logit_bias"), "logit_bias"),
        top_logprobs=top_logprobs,
        seed=fields.seed(body.get("seed"), "seed"),
    )


def _repetition_penalty(value: Any) -> float | None:
    """A divisor of logits, so 0 is not one of its values."""
    penalty = fields.number(value, "repetition_penalty", low=0, high=10)
    if penalty == 0:
        fields.refuse("Input should be greater than 0", "repetition_penalty")
    return penalty
