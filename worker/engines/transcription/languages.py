"""What clients call languages, and what Whisper's tokens do."""

from __future__ import annotations

from shared.languages import NAMES

_CODES = {name: code for code, name in NAMES.items()}


def code_of(asked: str) -> str:
    """The code of a language named by its code ("en", "en-US") or its English name; as it is where it is neither."""
    plain = asked.strip().lower()
    return _CODES.get(plain, plain.partition("-")[0].partition("_")[0])
