"""The dialects by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from gateway.dialects.anthropic.dialect import AnthropicDialect
from gateway.dialects.anthropic.schema import NAMES
from gateway.dialects.base import CountingDialect, Dialect, KeepingDialect
from gateway.dialects.openai_chat.dialect import OpenAIChatDialect
from gateway.dialects.openai_completions.dialect import OpenAICompletionsDialect
from gateway.dialects.openai_responses.dialect import OpenAIResponsesDialect
from gateway.models.resolve import VendorNames

ANTHROPIC: Final = AnthropicDialect()
OPENAI_CHAT: Final = OpenAIChatDialect()
OPENAI_COMPLETIONS: Final = OpenAICompletionsDialect()
OPENAI_RESPONSES: Final = OpenAIResponsesDialect()

KEEPING_DIALECTS: Final[Mapping[str, KeepingDialect]] = MappingProxyType({OPENAI_RESPONSES.name: OPENAI_RESPONSES})

COUNTING_DIALECTS: Final[Mapping[str, CountingDialect]] = MappingProxyType(
    {dialect.name: dialect for dialect in (ANTHROPIC, OPENAI_RESPONSES)}
)

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {dialect.name: dialect for dialect in (ANTHROPIC, OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_RESPONSES)}
)

VENDOR_NAMES: Final[Sequence[VendorNames]] = (NAMES,)
TIERS: Final = tuple(tier for vendor in VENDOR_NAMES for tier in vendor.tiers)
