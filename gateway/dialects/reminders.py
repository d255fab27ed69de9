"""System messages that stand in the middle of a conversation: `canonicalise` makes user text of them, so their words
say where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.canonical import SEPARATOR, join_texts
from shared.messages import Message, Part, TextPart

Tags = tuple[str, str]


def wrap_reminders(messages: Sequence[Message], tags: Tags) -> tuple[Message, ...]:
    """Each run of text in a system message behind the first message of another role stands between the tags, unless it
    already does."""
    head_length = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    late = (_wrapped(m, tags) if m.role == "system" else m for m in messages[head_length:])
    return (*messages[:head_length], *late)


def _wrapped(message: Message, tags: Tags) -> Message:
    return replace(message, parts=tuple(_wrapped_part(part, tags) for part in join_texts(message.parts, SEPARATOR)))


def _wrapped_part(part: Part, tags: Tags) -> Part:
    if not isinstance(part, TextPart):
        return part
    opening, closing = tags
    bare = part.text.strip()
    if bare.startswith(opening) and bare.endswith(closing):
        return TextPart(text=bare)
    return TextPart(text=f"{opening}\n{bare}\n{closing}")
