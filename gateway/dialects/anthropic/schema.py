"""The vendor's words: values of the Messages API and what they mean here.

Source: https://docs.anthropic.com/en/api/messages, as the official SDKs' types spell it out.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.models.resolve import VendorNames
from shared.events import FinishReason

# One of these headers, or this in `user-agent`, comes from its SDKs or Claude Code.
CLIENT_HEADERS: Final = ("anthropic-version", "x-api-key")
CLIENT_AGENT: Final = "claude"

HEADER_SESSION: Final = "x-claude-code-session-id"
HEADER_AGENT: Final = "x-claude-code-agent-id"

# Before and behind what Claude Code tells the model in the middle of a conversation.
REMINDER_TAGS: Final = ("<system-reminder>", "</system-reminder>")

# How the first system line of Claude Code begins. It names the session's version and a hash of its first message: no
# model needs it, and it would make the prompts of two sessions differ at their very beginning.
BILLING_PREFIX: Final = "x-anthropic-billing-header:"

# How Claude's models are called, by resellers too (`us.anthropic.claude-…`), and what Claude Code wants before the id
# of any other.
NAMES: Final = VendorNames(
    prefix="anthropic/",
    beginning=re.compile(r"(?:(?:[a-z-]+\.)?anthropic[./])?claude(?![a-z0-9])"),
    tiers=("haiku", "sonnet", "opus", "fable"),
    others=("opusplan",),
)

SUGGESTION_PREFIX: Final = "[SUGGESTION MODE"

# What Claude Code puts in the place of tool input that did not parse, and what we answer with where a stream would
# have carried the text itself.
UNPARSED_INPUT: Final = "__unparsedToolInput"

STOP_REASONS: Final[dict[FinishReason, str]] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "context_length": "model_context_window_exceeded",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}

# Adaptive leaves it to the model. (No `thinking` at all means off in this API.)
THINKING: Final[dict[str, bool | None]] = {
    "enabled": True,
    "between_tools": True,
    "adaptive": None,
    "disabled": False,
}

# Content of the other vendor's APIs, and the block that is meant: a picture that the model would be shown as JSON helps
# nobody.
FOREIGN_BLOCKS: Final = {
    "image_url": "image",
    "input_image": "image",
    "input_text": "text",
    "output_text": "text",
    "refusal": "text",
    "input_file": "document",
    "file": "document",
    "input_audio": "",
}

# ("minimal" is another vendor's.)
EFFORTS: Final = {effort: effort for effort in ("minimal", "low", "medium", "high", "xhigh", "max")}
