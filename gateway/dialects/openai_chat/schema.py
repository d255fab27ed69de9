"""The vendor's words: values of Chat Completions and what they mean here.

Source: https://platform.openai.com/docs/api-reference/chat, as the official SDKs' types spell it out.
"""

from __future__ import annotations

from typing import Final

from shared.events import FinishReason
from shared.messages import Role

ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

# Parts of an answer that hold reasoning: Mistral's, and what clients make of other vendors'.
REASONING_KINDS: Final = frozenset({"thinking", "reasoning", "redacted_thinking"})

FINISH_REASONS: Final[dict[FinishReason, str]] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "context_length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}

# What chat templates call the switch of their reasoning.
TEMPLATE_SWITCHES: Final = ("enable_thinking", "thinking")
# What a client may pass to the chat template of its own: as JSON, and how many names.
MAX_TEMPLATE_BYTES: Final = 16 * 1024
MAX_TEMPLATE_VARIABLES: Final = 64

# The vendor allows 128. Each is a request in the queue of one model.
MAX_CHOICES: Final = 32

COMPLETION_PREFIX: Final = "chatcmpl-"
