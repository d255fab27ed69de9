"""Forms with files in them: `multipart/form-data` (RFC 7578), as one body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from shared.errors import InvalidRequestError

_MOST_PARTS: Final = 64
_MOST_FIELD_BYTES: Final = 64 * 1024
_MOST_HEAD_BYTES: Final = 16 * 1024  # of a part: a name, a type, and whatever else a client tells of it
_BOUNDARY: Final = re.compile(
    r'^multipart/form-data\b.*?;\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE
)
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")  # RFC 6838, section 4.2
_BYTES: Final = "application/octet-stream"
_PARAMETER: Final = re.compile(r';\s*(\w+)(\*?)=(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))')


@dataclass(frozen=True, slots=True, kw_only=True)
class FormFile:
    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Fields that are texts, and files, by their names. `every` has all values of fields that come more than once."""

    texts: Mapping[str, str] = field(default_factory=dict)
    every: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[str, FormFile] = field(default_factory=dict)


def parse_form(content_type: str, body: bytes) -> Form:
    """Raises `InvalidRequestError` for what is no form."""
    found = _BOUNDARY.match(content_type)
    if found is None:
        raise InvalidRequestError("the body must be multipart/form-data with a boundary")
    boundary = (found[1] or found[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, _MOST_PARTS + 1)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise InvalidRequestError(f"the form has no end, or more than {_MOST_PARTS} parts")
    texts: dict[str, tuple[str, ...]] = {}
    files: dict[str, FormFile] = {}
    for piece in pieces[1:-1]:
        _take(piece, texts, files)
    return Form(texts={name: values[-1] for name, values in texts.items()}, every=texts, files=files)


def _take(piece: bytes, texts: dict[str, tuple[str, ...]], files: dict[str, FormFile]) -> None:
    head, separator, content = piece.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if len(head) > _MOST_HEAD_BYTES:  # to read megabytes of it would keep everybody waiting
        raise InvalidRequestError(f"a part of the form has a head of more than {_MOST_HEAD_BYTES} bytes")
    headers = dict(_header(line) for line in head.decode("utf-8", "replace").split("\r\n"))
    parameters = _parameters(headers.get("content-disposition", ""))
    if not separator or "name" not in parameters:
        raise InvalidRequestError("a part of the form has no name")
    if "filename" in parameters or "content-type" in headers:  # clients name no file that is mere bytes
        files[parameters["name"]] = FormFile(
            name=parameters.get("filename", ""), media_type=_media_type(headers), content=content
        )
    elif len(content) > _MOST_FIELD_BYTES:
        raise InvalidRequestError(f"{parameters['name'][:100]}: a field has at most {_MOST_FIELD_BYTES} bytes")
    else:
        name, text = parameters["name"], content.decode("utf-8", "replace")
        texts[name] = (*texts.get(name, ()), text)


def _media_type(headers: Mapping[str, str]) -> str:
    """What is none is mere bytes: it is a header's value again when the file is fetched."""
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    return given if _MEDIA_TYPE.fullmatch(given) else _BYTES


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _parameters(disposition: str) -> dict[str, str]:
    """A starred one (RFC 5987) says more than the plain one of its name."""
    found: dict[str, str] = {}
    for name, star, quoted, plain in _PARAMETER.findall(disposition):
        if star:
            found[name] = unquote(plain.partition("''")[2])
        else:
            found.setdefault(name, re.sub(r"\\(.)", r"\1", quoted) or plain)
    return found
