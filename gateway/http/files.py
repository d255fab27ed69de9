"""`/v1/files`, in the shape of the vendor whose client asks: upload, list, retrieve, content, delete."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.batches.ledger import Ledger
from gateway.dialects.anthropic import files as anthropic_files
from gateway.dialects.batch_values import StoredFile
from gateway.dialects.fields import named
from gateway.dialects.openai import files as openai_files
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.registry import ANTHROPIC
from gateway.http.multipart import Form, parse_form
from gateway.http.replies import dialect_of, header, read_raw, send_json, send_reply
from gateway.keys.holder import holder_of
from gateway.parts import Parts
from shared.errors import InvalidRequestError, MethodNotAllowedError

_CONTENT: Final = "/content"
# What somebody uploaded is no page of this gateway's for whoever opens it in a browser.
_NO_PAGE: Final = {
    "content-disposition": "attachment",
    "content-security-policy": "sandbox; default-src 'none'",
}
_SHAPES: Final[Mapping[str, Any]] = {ANTHROPIC.name: anthropic_files}


def _shape(scope: Scope) -> Any:
    return _SHAPES.get(dialect_of(scope).name, openai_files)


def _vendor(scope: Scope) -> str:
    return "anthropic" if dialect_of(scope).name == ANTHROPIC.name else "openai"


class Files:
    """All of them: one more, or a list. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._batches = parts.batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shape, vendor, tenant = _shape(scope), _vendor(scope), holder_of(scope).tenant
        if scope["method"] == "POST":
            file, content = _taken(scope, await read_raw(receive), vendor)
            file = replace(file, tenant=tenant)
            await self._batches.call(Ledger.add_file, file, content)
            await send_json(send, 200, shape.render_file(file))
            return
        files = [file for file in await self._batches.call(Ledger.files, tenant) if file.vendor == vendor]
        await send_json(send, 200, shape.render_files(files, QueryParams(scope["query_string"])))


def _taken(scope: Scope, body: bytes, vendor: str) -> tuple[StoredFile, bytes]:
    form = parse_form(header(scope, b"content-type"), body)
    upload = form.files.get("file")
    if upload is None:
        raise InvalidRequestError("file: Field required", param="file")
    purpose, lives_s = _anthropic_purpose(form) if vendor == "anthropic" else _openai_purpose(form)
    now_s = time.time()
    file = StoredFile(
        id=f"file_{secrets.token_hex(12)}" if vendor == "anthropic" else f"file-{secrets.token_hex(12)}",
        vendor=vendor,
        name=upload.name[:255] or "file",
        purpose=purpose,
        media_type=upload.media_type,
        size_bytes=len(upload.content),
        made_s=now_s,
        expires_s=None if lives_s is None else now_s + lives_s,
    )
    return file, upload.content


def _anthropic_purpose(form: Form) -> tuple[str, float | None]:
    seconds = form.texts.get("expires_in_seconds", "")
    if seconds and not (seconds.isdecimal() and int(seconds[:10]) > 0):
        raise InvalidRequestError("expires_in_seconds: Input should be a positive number", param="expires_in_seconds")
    return "user_data", float(seconds[:10]) if seconds else None


def _openai_purpose(form: Form) -> tuple[str, float | None]:
    with named(in_brackets):
        return openai_files.parse_upload(form.texts)


class File:
    """One of them, and its content. An ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._batches = parts.batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path_params"]["id"]
        file_id = path.removesuffix(_CONTENT)
        shape, tenant = _shape(scope), holder_of(scope).tenant
        file = await self._batches.call(Ledger.file, file_id, tenant)
        if path.endswith(_CONTENT):
            if scope["method"] == "DELETE":
                raise MethodNotAllowedError(f"DELETE is not allowed on {_CONTENT}, only GET", allow="GET, HEAD")
            content = await self._batches.call(Ledger.content, file_id, tenant)
            media_type = file.media_type.encode("latin-1", "replace")
            await send_reply(send, 200, content, media_type=media_type, headers=_NO_PAGE)
        elif scope["method"] == "DELETE":
            await self._batches.call(Ledger.delete_file, file_id, tenant)
            await send_json(send, 200, shape.render_deleted_file(file_id))
        else:
            await send_json(send, 200, shape.render_file(file))
