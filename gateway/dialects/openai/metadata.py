"""What clients write on what they store, to find it again."""

from __future__ import annotations

from typing import Any, Final

from gateway.dialects import fields

_MOST_PAIRS: Final = 16
_MOST_KEY_CHARS: Final = 64
_MOST_VALUE_CHARS: Final = 512


def parse_metadata(value: Any, *at: str) -> dict[str, str] | None:
    """None stays None. The bounds are the vendor's."""
    if value is None:
        return None
    pairs = fields.mapping(value, *at)
    if len(pairs) > _MOST_PAIRS:
        fields.refuse(f"Input should have at most {_MOST_PAIRS} keys", *at)
    for key, text in pairs.items():
        if len(key) > _MOST_KEY_CHARS:
            fields.refuse(f"a key should have at most {_MOST_KEY_CHARS} characters", *at, key)
        if len(fields.string(text, *at, key)) > _MOST_VALUE_CHARS:
            fields.refuse(f"String should have at most {_MOST_VALUE_CHARS} characters", *at, key)
    return dict(pairs)
