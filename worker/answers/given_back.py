"""What a reader of calls gives back where a marker began none: an answer that only speaks of calls.

The marker is text. What stands behind it is read again as the answer it is: it may hold the end of reasoning, or a call
that is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.formats.readers import CallEvent, CallText

# More of it is passed on as text: every marker in it would have it read once more.
_MOST_CHARS = 4000


def read_again(events: Sequence[CallEvent], marker: str, rest: str) -> tuple[list[CallEvent], str]:
    """A reader's last events, and the text to go on with, by the marker it followed and the `rest` it left."""
    text = "".join(event.text for event in events if isinstance(event, CallText))
    is_text = all(isinstance(event, CallText) for event in events)
    if not is_text or not marker or not text.startswith(marker) or len(text) > _MOST_CHARS:
        return list(events), rest
    return [CallText(marker)], text[len(marker) :] + rest
