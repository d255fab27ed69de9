"""Files that messages name stand in their place, in every vendor's form."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.batches.ledger import Ledger
from gateway.batches.store import BatchStore
from gateway.dialects.batch_values import StoredFile
from gateway.dialects.registry import DIALECTS
from gateway.http.attached import with_files
from gateway.intake.reader import Body
from shared.errors import AnswerNotFoundError, RequestTooLargeError
from shared.messages import DocumentPart, ImagePart, TextPart

FILES = {"f_text": ("text/plain", b"some words"), "f_pdf": ("application/pdf", b"%PDF"), "f_png": ("image/png", b"png")}


def attached(tmp_path: Path, body: Any, *, max_bytes: int = 10_000, tenant: str = "", is_exact: bool = False) -> Any:
    data = body if isinstance(body, bytes) else orjson.dumps(body)

    async def main() -> Body:
        store = BatchStore(tmp_path / "batches.sqlite3")
        try:
            for file_id, (media_type, content) in FILES.items():
                file = StoredFile(
                    id=file_id,
                    vendor="openai",
                    name=f"{file_id}.x",
                    purpose="user_data",
                    media_type=media_type,
                    size_bytes=len(content),
                    made_s=1.0,
                )
                await store.call(Ledger.add_file, file, content)
            came = Body(chunks=[data[:5], data[5:]], values=1, is_exact=is_exact)
            return await with_files(store, came, tenant, max_bytes=max_bytes)
        finally:
            await store.aclose()

    return asyncio.run(main()).joined()


def parts(dialect: str, body: bytes) -> tuple[Any, ...]:
    request = DIALECTS[dialect].parse_request(orjson.loads(body), {}, request_id="r").request
    return tuple(part for message in request.messages for part in message.parts)


def test_documents_and_images_of_messages(tmp_path: Path) -> None:
    content = [
        {"type": "document", "source": {"type": "file", "file_id": "f_pdf"}, "title": "t"},
        {"type": "image", "source": {"type": "file", "file_id": "f_png"}},
        {"type": "document", "source": {"type": "file", "file_id": "f_text"}},
    ]
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
    document, image, *text = parts("anthropic", attached(tmp_path, body))
    assert document == DocumentPart(media_type="application/pdf", data="JVBERg==", title="t")
    assert image == ImagePart(media_type="image/png", data="cG5n")
    assert "some words" in "".join(getattr(part, "text", "") or getattr(part, "data", "") for part in text)


def test_files_of_chat_messages_and_of_responses(tmp_path: Path) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f_pdf"}}]}]}
    (part,) = parts("openai_chat", attached(tmp_path, chat))
    assert (part.media_type, part.data, part.title) == ("application/pdf", "JVBERg==", "f_pdf.x")
    content = [{"type": "input_file", "file_id": "f_pdf"}, {"type": "input_image", "file_id": "f_png"}]
    response = {"model": "m", "input": [{"role": "user", "content": content}]}
    document, image = parts("openai_responses", attached(tmp_path / "other", response))
    assert (document.data, image.data) == ("JVBERg==", "cG5n")


def test_what_names_no_file_is_left_as_it_is(tmp_path: Path) -> None:
    for body in (b'{"a": 1}', b'{"file_id": nonsense', b'{"file_id":"x","type":"other"}'):
        assert attached(tmp_path / str(len(body)), body) == body


def test_a_file_that_is_not_there_and_one_too_many_are_refused(tmp_path: Path) -> None:
    def body(file_id: str) -> Any:
        return {"messages": [{"content": [{"type": "document", "source": {"type": "file", "file_id": file_id}}]}]}

    with pytest.raises(AnswerNotFoundError, match="f_none"):
        attached(tmp_path / "a", body("f_none"))
    with pytest.raises(AnswerNotFoundError, match="no file 'f_text'"):
        attached(tmp_path / "c", body("f_text"), tenant="somebody")
    with pytest.raises(RequestTooLargeError):
        attached(tmp_path / "b", body("f_text"), max_bytes=90)


def test_words_that_only_look_like_it_are_text(tmp_path: Path) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": 'say "file_id"'}]}
    assert parts("anthropic", attached(tmp_path, body)) == (TextPart(text='say "file_id"'),)


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"name": "t", "input_schema": {"properties": {"file_id": {"type": "string", "default": "x"}}}}]},
        {"tools": [{"name": "t", "input_schema": {"default": {"type": "file", "file_id": "x"}}}]},
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "tool_use", "input": {"type": "file", "file_id": "x"}}]}
            ]
        },
        {"metadata": {"type": "input_file", "file_id": "x"}},
    ],
)
def test_what_only_looks_like_a_file_leaves_the_body_as_it_came(tmp_path: Path, body: dict[str, Any]) -> None:
    written = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    assert attached(tmp_path, written) == written


def test_numbers_beside_a_file_stay_as_they_are_written(tmp_path: Path) -> None:
    part = b'{"type": "document", "source": {"type": "file", "file_id": "f_text"}}'
    body = b'{"tools": [{"big": 123456789012345678901234567890}], "messages": [' + part + b"]}"
    assert b'"big":123456789012345678901234567890' in attached(tmp_path, body, is_exact=True)
