"""Pages of a list, as the vendor's APIs give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from shared.errors import InvalidRequestError

_MOST: Final = 100
_USUAL: Final = 20


def render_page(
    shown: Sequence[Mapping[str, Any]],
    query: Mapping[str, str],
    *,
    order: Literal["asc", "desc"],
    most: int = _MOST,
    usual: int = _USUAL,
) -> dict[str, Any]:
    """The part of the list that the query asks for (`order`, `after`, `limit`); `shown` has the oldest first, each with
    an id, and `order` is what is usual. Raises `InvalidRequestError`."""
    asked = query.get("order") or order
    if asked not in ("asc", "desc"):
        raise InvalidRequestError("order: Input should be 'asc' or 'desc'", param="order")
    ordered = list(shown) if asked == "asc" else list(reversed(shown))
    ids = [str(item["id"]) for item in ordered]
    start = _place(ids, query["after"]) + 1 if query.get("after") else 0
    end = start + (_limit(query["limit"], most) if query.get("limit") else usual)
    return {
        "object": "list",
        "data": ordered[start:end],
        "first_id": ids[start] if start < len(ids) else None,
        "last_id": ids[min(end, len(ids)) - 1] if start < len(ids) else None,
        "has_more": end < len(ids),
    }


def _place(ids: Sequence[str], item_id: str) -> int:
    if item_id not in ids:
        raise InvalidRequestError(f"after: there is no item {item_id[:100]!r}", param="after")
    return ids.index(item_id)


def _limit(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise InvalidRequestError(f"limit: Input should be a number from 1 to {most}", param="limit")
    return int(text)
