"""Framing of server-sent events: bytes of one event, nothing about what it means.

Format: WHATWG HTML, "Server-sent events", section 9.2.5. JSON never contains a raw newline, so one `data:`
line is always enough.
"""

from __future__ import annotations

from typing import Any

from shared.exact import dump_bytes

DONE = b"data: [DONE]\n\n"


def encode_event(name: str, data: Any) -> bytes:
    """One named event with `data` as JSON."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), dump_bytes(data))


def encode_comment(text: str) -> bytes:
    """What readers pass over: it shows that the connection lives."""
    return b": %b\n\n" % text.encode()


def encode_data(data: Any) -> bytes:
    """One unnamed event with `data` as JSON."""
    return b"data: %b\n\n" % dump_bytes(data)
