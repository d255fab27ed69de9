"""The vendor's words: values of the Responses API and what they mean here.

Source: https://platform.openai.com/docs/api-reference/responses, as the official SDKs' types spell it out; what Codex,
OpenCode and pi send and read was measured with the clients.
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
}

TEXT_KINDS: Final = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})

# Blocks of the other vendor's API: what the client means by them would be lost.
FOREIGN_PARTS: Final = frozenset({"image", "document", "tool_use", "tool_result", "thinking"})

# Why an answer ended before its model was done. The vendor has one word for both limits.
INCOMPLETE: Final[dict[FinishReason, str]] = {
    "length": "max_output_tokens",
    "context_length": "max_output_tokens",
    "content_filter": "content_filter",
}

# Fields that workers and Chat Completions know by another name.
OWN_FIELDS: Final = {"messages": "input", "prompt": "input", "max_tokens": "max_output_tokens"}

# What ends a stream that failed. Codex reads these codes: on `server_error` it asks again, on `rate_limit_exceeded`
# when the message says, on the others it ends its turn and shows the message.
FAILURES: Final[dict[str, str]] = {
    "prompt_too_long": "context_length_exceeded",
    "max_tokens_too_large": "context_length_exceeded",
    "invalid_request": "invalid_prompt",
    "unsupported_content": "invalid_prompt",
    "overloaded": "rate_limit_exceeded",
}
SERVER_ERROR: Final = "server_error"

# Codex names the agents that it starts, and what shortens a conversation.
SUBAGENT_HEADER: Final = "x-openai-subagent"
COMPACTING: Final = "compact"

# What asks for the log probabilities of an answer's text, and for reasoning that can be sent back.
INCLUDE_LOGPROBS: Final = "message.output_text.logprobs"
INCLUDE_REASONING: Final = "reasoning.encrypted_content"
