"""What a template that numbers the calls writes after many calls, told from what it writes after few.

Two renderings of the same messages, behind 9 and behind 10 calls, differ in the numbers of calls and in nothing else.
(The next count has one digit more, so that a number which stands right behind another digit is not mistaken.)

Where nothing that was said holds a number that a call might have, one rendering tells it, too: behind as few calls as
make numbers that nobody said. How many numbers of calls it has to hold is known from two renderings of messages alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

SAMPLES = (9, 10)  # calls before
ALONE = (1, 5, 12)  # calls before a rendering that tells it alone
_DIGITS = re.compile("([0-9]+)")
_MOST_CALLS = 99  # of the messages themselves
_SHORT = re.compile("(?<![0-9])[1-9][0-9]{0,2}(?![0-9])")


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


def counted(texts: Sequence[str]) -> int:
    """How many numbers of calls the texts behind `SAMPLES` hold, which tell what stands behind many."""
    one, other = (_DIGITS.findall(text) for text in texts)
    return sum(number != another for number, another in zip(one, other, strict=True))


def short(text: str) -> frozenset[str]:
    """The numbers in a text that a call behind few others might have."""
    return frozenset(_SHORT.findall(text))


def few(said: Collection[str], own: int) -> int | None:
    """Behind how many calls messages with so many of their `own` have numbers of calls that are none of those `said`;
    None: behind none of `ALONE`."""
    return next((calls for calls in ALONE if not any(str(calls + at) in said for at in range(own))), None)


def after_one(text: str, few: int, own: int, calls: int, *, holds: int) -> str | None:
    """The text behind so many `calls`, from the one behind `few` of them; None where it does not hold so many numbers
    of the messages' `own` calls."""
    numbers = {str(few + at): str(calls + at) for at in range(own)}
    parts = _DIGITS.split(text)
    found = sum(part in numbers for part in parts[1::2])
    parts[1::2] = [numbers.get(part, part) for part in parts[1::2]]
    return "".join(parts) if found == holds else None
