"""Images and files, as the vendor's APIs name them -> parts."""

from __future__ import annotations

from typing import Any

from gateway.dialects import fields
from shared.errors import UnsupportedContentError
from shared.messages import DocumentPart, ImagePart


def parse_image(value: Any) -> ImagePart:
    """The image's URL, as text or as `{"url": …}`."""
    if not isinstance(value, str):
        url = fields.mapping(value).get("url")
        with fields.within("url"):
            return _parse_image_url(url)
    return _parse_image_url(value)


def _parse_image_url(value: Any) -> ImagePart:
    url = fields.name(value)
    if url.startswith("data:"):
        media_type, data = _parse_data_url(url)
        return ImagePart(media_type=media_type, data=data)
    if not url.startswith(("http://", "https://")):
        fields.refuse("Input should be an http(s) or base64 data URL")
    return ImagePart(media_type="", url=url)


def parse_file(value: Any) -> DocumentPart:
    file = fields.mapping(value)
    if file.get("file_data") is None:
        fields.refuse("uploaded files are not supported, send file_data", kind=UnsupportedContentError)
    with fields.within("file_data"):
        media_type, data = _parse_data_url(fields.string(file["file_data"]))
    return DocumentPart(
        media_type=media_type, data=data, title=fields.optional_string(file.get("filename"), "filename")
    )


def _parse_data_url(url: str) -> tuple[str, str]:
    """(media type, base64 text) of `data:<type>[;…];base64,<data>`."""
    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and comma and head.endswith(";base64") and data):
        fields.refuse("Input should be a base64 data URL, data:<media type>;base64,<data>")
    media_type = head.removeprefix("data:").partition(";")[0]
    if not media_type:
        fields.refuse("the data URL should name its media type")
    return media_type, data
