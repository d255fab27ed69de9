"""The reasoning efforts that this vendor's clients ask for."""

from __future__ import annotations

from typing import Any, Final

from gateway.dialects import fields

# What each is to the workers: "none" switches reasoning off. ("max" is another vendor's.)
EFFORTS: Final = {"none": "", **{effort: effort for effort in ("minimal", "low", "medium", "high", "xhigh", "max")}}


def parse_effort(value: Any, *at: str | int) -> str:
    """One of `EFFORTS`, or empty. Any other is refused in the vendor's words."""
    wanted = fields.optional_string(value, *at)
    if wanted and wanted not in EFFORTS:
        known = ", ".join(f"'{effort}'" for effort in EFFORTS)
        fields.refuse(f"Invalid value: '{wanted[:100]}'. Supported values are: {known}", *at)
    return wanted
