"""What a client may say of its request's urgency, in any dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.dialects import fields
from shared.request import Priority

PRIORITY_HEADER: Final = "x-mlx-gateway-priority"
_CLASSES: Final[dict[str, Priority]] = {
    "interactive": "interactive",
    "subagent": "subagent",
    "side": "side",
    "batch": "batch",
}


def asked_priority(headers: Mapping[str, str]) -> Priority | None:
    """The class that the header names; None without one. Raises `FieldError` for a class that there is not."""
    asked = headers.get(PRIORITY_HEADER)
    if asked is None:
        return None
    if asked.strip().lower() not in _CLASSES:
        fields.refuse(f"Input should be one of {', '.join(_CLASSES)}", PRIORITY_HEADER)
    return _CLASSES[asked.strip().lower()]
