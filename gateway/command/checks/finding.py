"""What was found out about one thing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`is_needed` tells a fault from a remark."""

    subject: str
    is_fine: bool
    text: str
    is_needed: bool = True


def fine(subject: str, text: str) -> Finding:
    return Finding(subject=subject, is_fine=True, text=text)


def remark(subject: str, text: str) -> Finding:
    return Finding(subject=subject, is_fine=False, is_needed=False, text=text)


def fault(subject: str, text: str) -> Finding:
    return Finding(subject=subject, is_fine=False, text=text)
