"""What changed between two states, as a JSON merge patch.

Format: RFC 7396. In it null means that a member is gone, so that no state may hold one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Empty where nothing did. Objects are compared member by member, all else is sent whole."""
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if old is value and name in before:
            continue
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if part := merge_patch(old, value):
                patch[name] = part
        elif name not in before or old != value:
            patch[name] = value
    return patch


def known(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}
