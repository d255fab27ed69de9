"""Words that the vendor's APIs share.

Source: the official SDKs' types; what clients send was measured with the clients.
"""

from __future__ import annotations

from typing import Final

# The first one that a request carries names its conversation: those of Codex, pi (also with `_`) and OpenCode.
SESSION_HEADERS: Final = ("session-id", "thread-id", "session_id", "x-session-id", "x-session-affinity")
MAX_SESSION_LENGTH: Final = 200

# Before and behind a system message in the middle of a conversation: what models of agents know best.
REMINDER_TAGS: Final = ("<system-reminder>", "</system-reminder>")

MAX_TOP_LOGPROBS: Final = 20
