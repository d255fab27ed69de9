"""Files that a message names: what was uploaded stands in their place before anybody reads the body."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.batches.ledger import Ledger
from gateway.batches.store import BatchStore
from gateway.dialects.batch_values import StoredFile
from gateway.intake.reader import Body
from shared import exact
from shared.errors import RequestTooLargeError

_NAMED: Final = re.compile(rb'"file_id"\s*:\s*"')  # most that speak of such a field are tools' schemas
_BYTES_PER_VALUE: Final = 16  # about: large conversations are read in the helper
_OTHERS: Final = ("tools", "metadata")  # what is said there is nobody's part of a message
_CALLS: Final = ("tool_use", "server_tool_use", "function_call")
_TEXT: Final = "text/plain"
_Put = Callable[[StoredFile, bytes], None]


async def with_files(store: BatchStore, body: Body, tenant: str, *, max_bytes: int) -> Body:
    """The body with the tenant's files that it names, else as it came. Raises `AnswerNotFoundError`,
    `RequestTooLargeError` and the errors of the store."""
    data = body.joined()
    if not _NAMED.search(data):
        return body
    try:
        read = exact.load_bytes(data, is_exact=body.is_exact)
    except (ValueError, RecursionError):
        return body  # whoever reads it next says what is wrong
    places = list(_places(read))
    if not places:
        return body
    size_bytes = len(data)
    for file_id, put in places:
        file = await store.call(Ledger.file, file_id, tenant)
        size_bytes += file.size_bytes * 4 // 3
        if size_bytes > max_bytes:
            raise RequestTooLargeError(f"with its files the request is larger than {max_bytes} bytes")
        put(file, await store.call(Ledger.content, file_id, tenant))
    whole = exact.dump_bytes(read)
    return Body(chunks=[whole], values=body.values + len(whole) // _BYTES_PER_VALUE, is_exact=body.is_exact)


def _places(value: Any) -> Iterator[tuple[str, _Put]]:
    """Where files are named, and what puts one there."""
    if isinstance(value, list):
        for item in value:
            yield from _places(item)
    elif isinstance(value, dict):
        found = _place(value)
        if found is not None:
            yield found
        elif value.get("type") not in _CALLS:
            for name, inner in value.items():
                if name not in _OTHERS:
                    yield from _places(inner)


def _place(part: dict[str, Any]) -> tuple[str, _Put] | None:
    """The forms of the vendors: a source of a block, a part of a chat message, an item's part."""
    kind, file_id, inner = part.get("type"), part.get("file_id"), part.get("file")
    if kind == "file" and isinstance(inner, dict) and isinstance(inner.get("file_id"), str):
        return inner["file_id"], lambda file, content: _put_data(inner, file, content)
    if not isinstance(file_id, str):
        return None
    if kind == "file":
        return file_id, lambda file, content: _put_source(part, file, content)
    if kind == "input_file":
        return file_id, lambda file, content: _put_data(part, file, content)
    if kind == "input_image":
        return file_id, lambda file, content: _replace(part, {**_rest(part), "image_url": _url(file, content)})
    return None


def _put_source(source: dict[str, Any], file: StoredFile, content: bytes) -> None:
    if file.media_type == _TEXT:
        _replace(source, {"type": "text", "media_type": _TEXT, "data": content.decode("utf-8", "replace")})
    else:
        _replace(source, {"type": "base64", "media_type": file.media_type, "data": base64.b64encode(content).decode()})


def _put_data(part: dict[str, Any], file: StoredFile, content: bytes) -> None:
    _replace(part, {"filename": file.name, **_rest(part), "file_data": _url(file, content)})


def _rest(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "file_id"}


def _replace(part: dict[str, Any], new: Mapping[str, Any]) -> None:
    part.clear()
    part.update(new)


def _url(file: StoredFile, content: bytes) -> str:
    return f"data:{file.media_type};base64,{base64.b64encode(content).decode()}"
