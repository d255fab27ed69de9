"""The vendor's words: values of Chat Completions and what they mean here.

Source: https://platform.openai.com/docs/api-reference/chat, as the official SDKs' types spell it out.
"""

from __future__ import annotations

from typing import Final

from shared.events import FinishReason
from shared.messages import Role

# The first one that a request carries names its conversation.
SESSION_HEADERS: Final = ("x-session-id", "x-session-affinity")

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

# Before and behind a system message in the middle of a conversation: what models of agents know best.
REMINDER_TAGS: Final = ("<system-reminder>", "</system-reminder>")

FINISH_REASONS: Final[dict[FinishReason, str]] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "context_length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}

EFFORTS: Final = {effort: effort for effort in ("minimal", "low", "medium", "high", "xhigh", "max")}

# What chat templates call the switch of their reasoning.
TEMPLATE_SWITCHES: Final = ("enable_thinking", "thinking")
# What servers of models call a budget for reasoning: in a body, or as a variable of the chat template.
BUDGETS: Final = ("thinking_budget", "thinking_token_budget")
# What a client may pass to the chat template of its own: as JSON, and how many names.
MAX_TEMPLATE_BYTES: Final = 16 * 1024
MAX_TEMPLATE_VARIABLES: Final = 64

MAX_TOP_LOGPROBS: Final = 20
# The vendor allows 128. Each is a request in the queue of one model.
MAX_CHOICES: Final = 32
