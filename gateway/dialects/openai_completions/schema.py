"""The vendor's words: values of the Completions API and what they mean here.

Source: https://platform.openai.com/docs/api-reference/completions, as the official SDKs' types spell it out.
"""

from __future__ import annotations

from typing import Final

from shared.events import FinishReason

FINISH_REASONS: Final[dict[FinishReason, str]] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "context_length": "length",
    "tool_calls": "stop",
    "content_filter": "content_filter",
}

DEFAULT_MAX_TOKENS: Final = 16
MAX_LOGPROBS: Final = 5
MAX_BEST_OF: Final = 20
# Answers to one request: each is a request in the queue of one model, which by default holds 64.
MAX_ANSWERS: Final = 48
