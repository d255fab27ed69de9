"""Prompts tell one date in these tests, also when midnight passes between two of them."""

from __future__ import annotations

from tests.support.day import one_day

__all__ = ["one_day"]
