"""Raw prompts: a text, ids of tokens, or a text with a gap that the model fills in.

Models that were trained to fill in the middle have control tokens for it, and each family puts the parts in an order of
its own. Sources: the model cards of Qwen2.5-Coder, StarCoder2, CodeLlama, DeepSeek-Coder, CodeGemma, Codestral and
Granite.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shared.errors import InvalidRequestError
from shared.request import GenerateRequest
from worker.prompt.encode import Encoder


class Gap(NamedTuple):
    """The tokens before what stands in front of the gap, before what stands behind it, and where the model goes on;
    empty where it has none. `is_behind_first`: what stands behind the gap comes first."""

    before: str
    behind: str
    middle: str
    is_behind_first: bool = False


GAPS: Final = (
    Gap("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Gap("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    Gap("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    Gap("▁<PRE>", "▁<SUF>", "▁<MID>"),
    Gap("<PRE>", "<SUF>", "<MID>"),
    Gap("<\uff5cfim▁begin\uff5c>", "<\uff5cfim▁hole\uff5c>", "<\uff5cfim▁end\uff5c>"),
    Gap("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    Gap("[PREFIX]", "[SUFFIX]", "[MIDDLE]", is_behind_first=True),
    Gap("[PREFIX]", "[SUFFIX]", "", is_behind_first=True),
)


def raw_tokens(request: GenerateRequest, encoder: Encoder) -> list[int]:
    """Raises `InvalidRequestError` for ids that the model does not have, and for a gap that it cannot fill."""
    if request.suffix:
        return _around_gap(request, encoder)
    if not request.prompt_tokens:
        return encoder.raw(request.prompt)
    unknown = next((token for token in request.prompt_tokens if not 0 <= token < encoder.vocabulary), None)
    if unknown is not None:
        raise InvalidRequestError(f"prompt: {unknown} is no token of this model", param="prompt")
    return list(request.prompt_tokens)


def _around_gap(request: GenerateRequest, encoder: Encoder) -> list[int]:
    gap = next((gap for gap in GAPS if all(encoder.has(text) for text in gap[:3] if text)), None)
    if gap is None:
        raise InvalidRequestError("suffix: this model has no tokens to fill in the middle with", param="suffix")
    before, behind = gap.before + request.prompt, gap.behind + request.suffix
    parts = (behind, before) if gap.is_behind_first else (before, behind)
    return encoder.raw("".join(parts) + gap.middle)
