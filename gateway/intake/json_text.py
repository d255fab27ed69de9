"""A client's JSON as values. What the grammar allows and no text can hold, half of a surrogate pair, is U+FFFD; what no
float can hold is an exact number (`shared.exact`).

Clients cut tool output in the middle of an emoji and send what is left as an escape (RFC 8259, section 8.2, allows it).
Once it stands in a history every later request carries it, so a refusal would end that conversation for ever.
"""

from __future__ import annotations

import re
from typing import Any

from shared.errors import InvalidRequestError
from shared.exact import load_bytes

# Whole pairs are matched so as to be left alone.
_SURROGATES = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[89a-fA-F][0-9a-fA-F]{2})")
_ESCAPE_BYTES = 6
_REPLACEMENT = rb"\ufffd"


def parse_json(body: bytes | bytearray | memoryview, hint: str = "", *, is_exact: bool = False) -> Any:
    """`is_exact`: some numbers may have to stay as they are written, which takes longer. Raises `InvalidRequestError`,
    ending in `hint`, for what is no JSON."""
    problem: Exception
    try:
        return load_bytes(body, is_exact=is_exact)
    except (ValueError, RecursionError) as error:
        problem = error
    whole = _SURROGATES.sub(_whole, body)
    try:
        return load_bytes(whole, is_exact=is_exact)
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"the request body is not valid JSON: {problem}{hint}") from None


def _whole(found: re.Match[bytes]) -> bytes:
    """An escape counts behind an even number of backslashes only; half of what looks like a pair may stand alone."""
    first, second = found[0][:_ESCAPE_BYTES], found[0][_ESCAPE_BYTES:]
    if _backslashes_before(found) % 2:
        return first + (_REPLACEMENT if second else b"")
    return first + second if second else _REPLACEMENT


def _backslashes_before(found: re.Match[bytes]) -> int:
    text, end = found.string, found.start()
    start = end
    while start > 0 and text[start - 1] == ord("\\"):
        start -= 1
    return end - start
