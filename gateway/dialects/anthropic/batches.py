"""The vendor's Message Batches: requests in one body, and their results, one a line.

Source: https://docs.claude.com/en/api/creating-message-batches, as the official SDKs' types spell it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from gateway.dialects import fields
from gateway.dialects.anthropic.paging import render_page
from gateway.dialects.batch_values import Batch, Ended, Item

PATH: Final = "/v1/messages"
WINDOW_S: Final = 24 * 3600.0
_MOST_ITEMS: Final = 100_000


def parse_batch(body: Mapping[str, Any]) -> list[Item]:
    with fields.within("requests"):
        requests = fields.sequence(body.get("requests"))
        if not 0 < len(requests) <= _MOST_ITEMS:
            fields.refuse(f"List should have 1 to {_MOST_ITEMS} items")
        items = fields.each(requests, _parse_item)
        seen: set[str] = set()
        for place, item in enumerate(items):
            if item.custom_id in seen:
                fields.refuse(f"{item.custom_id[:100]!r} is used twice", place, "custom_id")
            seen.add(item.custom_id)
    return items


def _parse_item(given: Any) -> Item:
    request = fields.mapping(given)
    params = fields.mapping(request.get("params"), "params")
    body = {**params, "stream": False} if "stream" in params else params
    return Item(custom_id=fields.name(request.get("custom_id"), "custom_id"), body=orjson.dumps(body))


def render_batch(batch: Batch, results_url: str) -> dict[str, Any]:
    """`results_url` is where its results are, once it has ended."""
    has_ended = batch.ended_s is not None
    counts = batch.counts
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if has_ended else "in_progress" if batch.cancelled_s is None else "canceling",
        "request_counts": {
            "processing": counts.get("", 0),
            "succeeded": counts.get("succeeded", 0),
            "errored": counts.get("errored", 0),
            "canceled": counts.get("canceled", 0),
            "expired": counts.get("expired", 0),
        },
        "ended_at": timestamp(batch.ended_s),
        "created_at": timestamp(batch.made_s),
        "expires_at": timestamp(batch.expires_s),
        "archived_at": None,
        "cancel_initiated_at": timestamp(batch.cancelled_s),
        "results_url": results_url if has_ended else None,
    }


def timestamp(time_s: float | None) -> str | None:
    """RFC 3339; None stays None."""
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC).isoformat()


def render_batches(batches: Sequence[Batch], query: Mapping[str, str], urls: Mapping[str, str]) -> dict[str, Any]:
    """The latest first; `batches` has the oldest first, `urls` where the results of each are. Raises
    `InvalidRequestError`."""
    return render_page([render_batch(batch, urls[batch.id]) for batch in reversed(batches)], query)


def render_deleted(batch_id: str) -> dict[str, Any]:
    return {"id": batch_id, "type": "message_batch_deleted"}


def render_lines(endings: Iterable[Ended]) -> Iterator[bytes]:
    """A line for each ending."""
    for ended in endings:
        yield orjson.dumps({"custom_id": ended.custom_id, "result": _result(ended)}) + b"\n"


def _result(ended: Ended) -> dict[str, Any]:
    match ended.outcome:
        case "succeeded":
            return {"type": "succeeded", "message": orjson.Fragment(ended.answer)}
        case "errored":
            return {"type": "errored", "error": orjson.Fragment(ended.answer)}
    return {"type": ended.outcome}
