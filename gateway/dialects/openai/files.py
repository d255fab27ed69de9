"""Files in the vendor's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.dialects import fields
from gateway.dialects.batch_values import StoredFile
from gateway.dialects.openai.paging import render_page

PURPOSES: Final = ("batch", "assistants", "fine-tune", "vision", "user_data", "evals")
_MOST_LISTED: Final = 10_000
_EXPIRES: Final = (3600, 30 * 24 * 3600)


def parse_upload(form: Mapping[str, str]) -> tuple[str, float | None]:
    """(purpose, seconds until it expires). `form` are the fields beside the file."""
    purpose = form.get("purpose", "")
    if purpose not in PURPOSES:
        fields.refuse(f"Input should be one of {', '.join(PURPOSES)}" if purpose else "Field required", "purpose")
    seconds = form.get("expires_after[seconds]")
    if seconds is None:
        return purpose, None
    low, high = _EXPIRES
    if not seconds.isdecimal() or not low <= int(seconds[:9]) <= high:
        fields.refuse(f"Input should be a number of seconds from {low} to {high}", "expires_after", "seconds")
    return purpose, float(seconds)


def render_file(file: StoredFile) -> dict[str, Any]:
    shown = {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.made_s),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }
    return shown if file.expires_s is None else shown | {"expires_at": int(file.expires_s)}


def render_files(files: Sequence[StoredFile], query: Mapping[str, str]) -> dict[str, Any]:
    """`files` has the oldest first. Raises `InvalidRequestError`."""
    wanted = query.get("purpose")
    shown = [render_file(file) for file in files if not wanted or file.purpose == wanted]
    return render_page(shown, query, order="desc", most=_MOST_LISTED, usual=_MOST_LISTED)


def render_deleted_file(file_id: str) -> dict[str, Any]:
    return {"id": file_id, "object": "file", "deleted": True}
