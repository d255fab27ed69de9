"""The vendor's Batch API: files of requests, one a line, and files of their answers.

Source: https://platform.openai.com/docs/api-reference/batch, as the official SDKs' types spell it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.dialects import fields
from gateway.dialects.batch_values import Batch, Ended, Item
from gateway.dialects.openai.metadata import parse_metadata
from gateway.dialects.openai.paging import render_page

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
WINDOW: Final = "24h"
WINDOW_S: Final = 24 * 3600.0
_MOST_ITEMS: Final = 50_000
_MOST_FAULTS: Final = 100
_ENDINGS: Final = {
    "canceled": {"code": "batch_cancelled", "message": "the batch was cancelled before this request was done"},
    "expired": {"code": "batch_expired", "message": "the batch ran out of time before this request was done"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedBatch:
    input_file: str
    endpoint: str
    metadata: dict[str, str] | None


def parse_batch(body: Mapping[str, Any]) -> AskedBatch:
    endpoint = fields.name(body.get("endpoint"), "endpoint")
    if endpoint not in ENDPOINTS:
        fields.refuse(f"Input should be one of {', '.join(ENDPOINTS)}", "endpoint")
    if body.get("completion_window") != WINDOW:
        fields.refuse(f"Input should be {WINDOW!r}", "completion_window")
    return AskedBatch(
        input_file=fields.name(body.get("input_file_id"), "input_file_id"),
        endpoint=endpoint,
        metadata=parse_metadata(body.get("metadata"), "metadata"),
    )


def parse_lines(content: bytes, endpoint: str) -> tuple[list[Item], list[dict[str, Any]]]:
    """(the requests of a file, what is wrong with it in the vendor's shape). With faults there are no requests."""
    items: list[Item] = []
    faults: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        if len(items) > _MOST_ITEMS or len(faults) == _MOST_FAULTS:
            break
        try:
            item = _parse_line(line, endpoint)
            if item.custom_id in seen:
                fields.refuse(f"{item.custom_id[:100]!r} is used twice", "custom_id")
        except fields.FieldError as error:
            faults.append(_fault(error, number))
        else:
            seen.add(item.custom_id)
            items.append(item)
    if not items and not faults:
        faults = [{"code": "empty_file", "message": "the file holds no request", "line": None, "param": None}]
    if len(items) > _MOST_ITEMS:
        text = f"a batch has at most {_MOST_ITEMS} requests, this one more"
        faults = [{"code": "too_many_requests", "message": text, "line": None, "param": None}]
    return ([] if faults else items), faults


def _parse_line(line: bytes, endpoint: str) -> Item:
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        fields.refuse(f"the line is not valid JSON: {error}")
    request = fields.mapping(given)
    custom_id = fields.name(request.get("custom_id"), "custom_id")
    if request.get("method", "POST") != "POST":
        fields.refuse("Input should be 'POST'", "method")
    if fields.name(request.get("url"), "url") != endpoint:
        fields.refuse(f"Input should be the batch's endpoint, {endpoint!r}", "url")
    body = fields.mapping(request.get("body"), "body")
    return Item(custom_id=custom_id, body=orjson.dumps({**body, "stream": False} if "stream" in body else body))


def _fault(error: fields.FieldError, line: int) -> dict[str, Any]:
    param = ".".join(map(str, error.path)) or None
    return {"code": "invalid_request", "message": error.problem, "line": line, "param": param}


def render_batch(batch: Batch) -> dict[str, Any]:
    faults = batch.note.get("faults")
    status = "failed" if faults else _status(batch)
    ended = None if batch.ended_s is None else int(batch.ended_s)
    done = batch.counts.get("succeeded", 0)
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.path,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": batch.input_file,
        "completion_window": WINDOW,
        "status": status,
        "output_file_id": batch.output_file or None,
        "error_file_id": batch.error_file or None,
        "created_at": int(batch.made_s),
        "in_progress_at": None if faults else int(batch.made_s),
        "expires_at": int(batch.expires_s),
        "finalizing_at": None if faults else ended,
        "completed_at": ended if status == "completed" else None,
        "failed_at": ended if faults else None,
        "expired_at": ended if status == "expired" else None,
        "cancelling_at": None if batch.cancelled_s is None else int(batch.cancelled_s),
        "cancelled_at": ended if status == "cancelled" else None,
        "request_counts": {
            "total": batch.total,
            "completed": done,
            "failed": batch.total - done - batch.counts.get("", 0),
        },
        "metadata": batch.note.get("metadata"),
    }


def _status(batch: Batch) -> str:
    if batch.ended_s is None:
        return "in_progress" if batch.cancelled_s is None else "cancelling"
    if batch.cancelled_s is not None:
        return "cancelled"
    return "expired" if batch.counts.get("expired") else "completed"


def render_batches(batches: Sequence[Batch], query: Mapping[str, str]) -> dict[str, Any]:
    """`batches` has the oldest first. Raises `InvalidRequestError`."""
    return render_page([render_batch(batch) for batch in batches], query, order="desc")


def render_lines(batch: Batch, endings: Iterable[Ended]) -> Iterator[bytes]:
    """A line for each ending."""
    for number, ended in enumerate(endings):
        response = None
        if ended.status:
            body = orjson.Fragment(ended.answer)
            response = {"status_code": ended.status, "request_id": ended.request_id, "body": body}
        line = {
            "id": f"batch_req_{batch.id.removeprefix('batch_')}_{number}",
            "custom_id": ended.custom_id,
            "response": response,
            "error": _ENDINGS.get(ended.outcome),
        }
        yield orjson.dumps(line) + b"\n"
