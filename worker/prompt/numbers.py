"""What a template that numbers the calls writes after many calls, told from what it writes after few.

Two renderings of the same messages, behind 9 and behind 10 calls, differ in the numbers of calls and in nothing else.
(The next count has one digit more, so that a number which stands right behind another digit is not mistaken.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SAMPLES = (9, 10)  # calls before
_DIGITS = re.compile("([0-9]+)")
_MOST_CALLS = 99  # of the messages themselves


def after(texts: Sequence[str], calls: int) -> str | None:
    """The text behind so many `calls`, from those behind `SAMPLES`; None where they do not tell."""
    one, other = texts
    if one == other:
        return one
    parts, others = _DIGITS.split(one), _DIGITS.split(other)
    if len(parts) != len(others) or parts[::2] != others[::2]:
        return None
    numbers = [_number(*pair, calls) for pair in zip(parts[1::2], others[1::2], strict=True)]
    if None in numbers:
        return None
    parts[1::2] = [number for number in numbers if number is not None]
    return "".join(parts)


def _number(one: str, other: str, calls: int) -> str | None:
    """One number of the text: the same in both, or that of a call."""
    if one == other:
        return one
    if max(len(one), len(other)) > len(str(SAMPLES[1] + _MOST_CALLS)):
        return None
    offset = int(one) - SAMPLES[0]
    is_counted = one[0] != "0" and int(other) - SAMPLES[1] == offset and 0 <= offset <= _MOST_CALLS
    return str(calls + offset) if is_counted else None
