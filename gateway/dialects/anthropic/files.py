"""The vendor's Files API (beta): what is said of a file.

Source: https://docs.claude.com/en/docs/build-with-claude/files, as the official SDKs' types spell it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.dialects.anthropic.batches import timestamp
from gateway.dialects.anthropic.paging import render_page
from gateway.dialects.batch_values import StoredFile


def render_file(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "type": "file",
        "filename": file.name,
        "mime_type": file.media_type,
        "size_bytes": file.size_bytes,
        "created_at": timestamp(file.made_s),
        "downloadable": True,
    }


def render_files(files: Sequence[StoredFile], query: Mapping[str, str]) -> dict[str, Any]:
    """The latest first; `files` has the oldest first. Raises `InvalidRequestError`."""
    return render_page([render_file(file) for file in reversed(files)], query)


def render_deleted_file(file_id: str) -> dict[str, Any]:
    return {"id": file_id, "type": "file_deleted"}
