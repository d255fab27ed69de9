"""Shortening a conversation: what the model is asked for, and how its summary reads in what follows."""

from __future__ import annotations

from typing import Final

from shared.messages import Message, TextPart

_REQUEST: Final = (
    "Stop here and do not continue the task. Write a summary of this conversation for yourself: it will be all that "
    "you know of what happened so far. Keep what was asked, word by word where it matters; what was decided and why; "
    "files, commands and results that will be needed again; what is done and what comes next. Answer with the summary "
    "alone, as text, and call no tool."
)
_HEADING: Final = "Summary of the conversation up to here:"


def request_message() -> Message:
    """Behind the whole conversation, so that its prompt is found in the cache."""
    return Message(role="user", parts=(TextPart(text=_REQUEST),))


def summary_text(summary: str) -> str:
    return f"{_HEADING}\n\n{summary}"
