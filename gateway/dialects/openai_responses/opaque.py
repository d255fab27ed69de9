"""Text that a client keeps for us without reading it: `encrypted_content` of reasoning and of summaries.

It is wrapped, not encrypted: it holds what the model said to this very client. The same text always has the same form,
so a history that holds it stays as it was.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

_MARK: Final = "mlxgw1."


def wrap(text: str) -> str:
    return _MARK + base64.urlsafe_b64encode(text.encode()).decode()


def unwrap(value: object) -> str | None:
    """The text; None for what did not come from here."""
    if not isinstance(value, str) or not value.startswith(_MARK):
        return None
    try:
        return base64.b64decode(value.removeprefix(_MARK), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
