"""How the vendor names a field in its errors: `messages[0].content`."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.dialects.fields import Step


def in_brackets(path: Sequence[Step]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
