"""Forms with files in them, as clients of every kind write them."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.multipart import Form, FormFile, parse_form
from shared.errors import InvalidRequestError


def sent(fields: dict[str, str], name: str, content: bytes, media_type: str) -> Form:
    """As the HTTP library of both vendors' packages writes it."""
    request = httpx2.Request("POST", "http://x", data=fields, files={"file": (name, content, media_type)})
    return parse_form(request.headers["content-type"], request.read())


@given(
    content=st.binary(max_size=200),
    name=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20),
)
def test_whatever_a_file_holds_arrives_as_it_is(content: bytes, name: str) -> None:
    form = sent({"purpose": "batch"}, name, content, "application/pdf")
    assert form.texts == {"purpose": "batch"}
    assert form.files["file"].content == content
    assert form.files["file"].media_type == "application/pdf"


def test_names_may_be_of_any_letters_and_quoted() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a \\"b\\".txt"\r\n\r\nx\r\n'
        b"--b\r\ncontent-disposition: form-data; name=other; filename*=UTF-8''n%C3%A9.txt\r\n"
        b"content-type: text/plain; x=y\r\n"
        b"\r\n\r\n\r\n--b--\r\n"
    )
    form = parse_form('multipart/form-data; charset=x; boundary="b"', body)
    assert form.files["file"] == FormFile(name='a "b".txt', media_type="application/octet-stream", content=b"x")
    assert form.files["other"] == FormFile(name="né.txt", media_type="text/plain", content=b"\r\n")


def test_bytes_without_a_name_are_a_file_too() -> None:
    """As the official packages send what they were given as bytes."""
    body = b'--b\r\ncontent-disposition: form-data; name="file"\r\ncontent-type: text/plain\r\n\r\nx\r\n--b--\r\n'
    assert parse_form("multipart/form-data; boundary=b", body).files["file"] == FormFile(
        name="", media_type="text/plain", content=b"x"
    )


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--b--"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--b\r\ncontent-disposition: form-data; name=a\r\n\r\nx"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--"),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\ncontent-disposition: form-data; name=a\r\n\r\nx\r\n" * 70 + b"--b--",
        ),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\ncontent-disposition: form-data; name=a\r\n\r\n" + b"x" * 70_000 + b"\r\n--b--",
        ),
    ],
)
def test_what_is_no_form_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_form(content_type, body)


@pytest.mark.parametrize("more", [b"a: b\r\n" * 4000, b'content-disposition: form-data; name="a' + b"\\a" * 9000])
def test_a_part_whose_head_is_long_is_refused_before_it_is_read(more: bytes) -> None:
    body = b"--b\r\ncontent-disposition: form-data; name=a\r\n" + more + b"\r\n\r\nx\r\n--b--"
    with pytest.raises(InvalidRequestError, match="a head of more than 16384 bytes"):
        parse_form("multipart/form-data; boundary=b", body)


@pytest.mark.parametrize(
    "given",
    [
        "text/html\nset-cookie: a=b",
        "text/html\rx",
        "a b/c",
        "text",
        "text/",
        "tëxt/plain",
        "text/plain\x00",
        "x/" + "y" * 200,
    ],
)
def test_a_type_that_is_none_is_mere_bytes_for_it_is_a_header_again_later(given: str) -> None:
    body = f'--b\r\ncontent-disposition: form-data; name="file"\r\ncontent-type: {given}\r\n\r\nx\r\n--b--\r\n'
    assert parse_form("multipart/form-data; boundary=b", body.encode()).files["file"] == FormFile(
        name="", media_type="application/octet-stream", content=b"x"
    )
