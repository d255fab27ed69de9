"""Pages of a list, as the vendor's APIs give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.dialects.anthropic.models import parse_page
from shared.errors import InvalidRequestError


def render_page(shown: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The part of the list that the query asks for; each of `shown` has an id. Raises `InvalidRequestError`."""
    page = parse_page(query)
    ids = [str(item["id"]) for item in shown]
    if page.before_id:
        before = shown[: _place(ids, page.before_id, "before_id")]
        data, has_more = before[-page.limit :], len(before) > page.limit
    else:
        after = shown[_place(ids, page.after_id, "after_id") + 1 :] if page.after_id else shown
        data, has_more = after[: page.limit], len(after) > page.limit
    return {
        "data": list(data),
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _place(ids: Sequence[str], cursor: str, field: str) -> int:
    if cursor not in ids:
        raise InvalidRequestError(f"{field}: there is no item {cursor[:100]!r}", param=field)
    return ids.index(cursor)
