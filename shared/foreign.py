"""What another program has said, before a person or a log sees it: pure."""

from __future__ import annotations

from typing import Any, Final

_MOST_NAME: Final = 256  # characters


def shown(text: str, most: int) -> str:
    """At most `most` characters, in one line, without those that could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:most])


def is_name(value: Any) -> bool:
    """Whether it can be a model's name: a text that a person could read and type."""
    return isinstance(value, str) and 0 < len(value) <= _MOST_NAME and value.isprintable()
