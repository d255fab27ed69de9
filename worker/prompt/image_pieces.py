"""Images in a prompt: what a template is given in their place, where their patch tokens stand, and under which ids
the prefix cache knows them.

A template writes one marker per image, most often a patch token. It becomes the image's own text, which holds as many
patch tokens as the model has rows for the image, with control tokens around them and perhaps between. For the prefix
cache each of them gets an id of its own made from the image's content, so that the same image is found again and
another of the same size is not.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.errors import UnsupportedContentError
from shared.messages import ImagePart, Message, Part, Role, ToolResultPart
from worker.files.messages import IMAGE_REFUSAL
from worker.prompt.image_files import Image, ImageReader

TEXT_ONLY = "this model reads text only"

# A message's content as templates read it: text, or a list of texts and images.
Content = str | list[dict[str, Any]]

_SCHEME = "sha256:"
_ABOVE_VOCABULARY = 1 << 31  # no vocabulary is so large
_ID_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """What a template writes for an image, and the token at which the image's rows stand."""

    text: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpan:
    """The tokens `start..end` of a prompt (or of a piece of one) are those of an image, from its first patch token to
    its last."""

    start: int
    end: int
    digest: bytes

    def moved(self, by: int) -> ImageSpan:
        return replace(self, start=self.start + by, end=self.end + by)


class ImageDict(dict[str, Any]):
    """An image as a template reads it, in the form that this template knows."""

    def __init__(self, form: str, image: Image | None) -> None:
        super().__init__({"type": "image"} if form == "image" else {"type": form, form: {"url": ""}})
        self.of = image


# What templates know images as: in the words of chat clients, and in those of the library that made templates.
IMAGE_FORMS = ("image_url", "image")


def text_dict(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def joined(*contents: Content) -> Content:
    """Contents one after the other: text if there is no image among them."""
    if all(isinstance(content, str) for content in contents):
        return "".join(content for content in contents if isinstance(content, str))
    items: list[dict[str, Any]] = []
    for content in contents:
        for item in [text_dict(content)] if isinstance(content, str) else content:
            if item["type"] == "text" and items and items[-1]["type"] == "text":
                items[-1] = text_dict(items[-1]["text"] + item["text"])
            elif item["type"] != "text" or item["text"]:
                items.append(item)
    return items


def text_of(content: Any) -> str:
    """The text of a message's content, images left out."""
    if isinstance(content, list):
        return "".join(item.get("text", "") for item in content)
    return str(content)


def images_of(dicts: Iterable[Mapping[str, Any]]) -> list[Image]:
    """The images that a template is given with these messages, in their order."""
    contents = (message.get("content") for message in dicts)
    items = (item for content in contents if isinstance(content, list) for item in content)
    return [item.of for item in items if isinstance(item, ImageDict) and item.of is not None]


class ImageAlbum:
    """The images of one request. Its `messages` name them by their content, which makes them light to keep and to
    compare. Raises `UnsupportedContentError` for images that cannot be read, and where there is no reader for the
    reason that is given."""

    def __init__(self, messages: Iterable[Message], reader: ImageReader | None, reason: str = TEXT_ONLY) -> None:
        self._reader, self._reason = reader, reason
        self._images: dict[str, Image] = {}
        self.messages = [self._lightened(message) for message in messages]

    def _lightened(self, message: Message) -> Message:
        if not any(isinstance(part, ImagePart | ToolResultPart) for part in message.parts):
            return message
        return replace(message, parts=tuple(self._light(part, message.role) for part in message.parts))

    def _light(self, part: Any, role: Role) -> Part:
        if isinstance(part, ToolResultPart) and any(isinstance(inner, ImagePart) for inner in part.parts):
            parts: Any = tuple(self._light(inner, role) for inner in part.parts)
            return replace(part, parts=parts)
        if not isinstance(part, ImagePart):
            return part  # type: ignore[no-any-return]
        if self._reader is None:
            raise UnsupportedContentError(f"{IMAGE_REFUSAL}: {self._reason}")
        if role not in ("user", "tool"):
            raise UnsupportedContentError(f"{IMAGE_REFUSAL}: images may stand only in user messages and tool results")
        image = self._reader.read(part)
        name = _SCHEME + image.digest.hex()
        self._images[name] = image
        return replace(part, data="", url=name)

    def image(self, part: ImagePart) -> Image:
        return self._images[part.url]

    @property
    def by_digest(self) -> dict[bytes, Image]:
        return {image.digest: image for image in self._images.values()}


def with_images(text: str, images: Sequence[Image], patch: Patch | None) -> str | None:
    """A template's output with each marker as the image's own text; None when the template has not written one for each
    image."""
    if not images or patch is None:
        return text
    parts = text.split(patch.text)
    if len(parts) - 1 != len(images):
        return None
    out = [parts[0]]
    for image, part in zip(images, parts[1:], strict=True):
        out += [image.text, part]
    return "".join(out)


def find_spans(tokens: Sequence[int], images: Sequence[Image], patch: Patch | None) -> tuple[ImageSpan, ...]:
    """Where the images' patch tokens are: each image has as many as its text, in their order."""
    if patch is None:
        return ()
    spans: list[ImageSpan] = []
    at = 0
    for image in images:
        start = tokens.index(patch.token, at)
        at = start
        for _ in range(image.tokens):
            at = tokens.index(patch.token, at) + 1
        spans.append(ImageSpan(start=start, end=at, digest=image.digest))
    return tuple(spans)


def cache_keys(tokens: Sequence[int], spans: Iterable[ImageSpan]) -> Sequence[int]:
    """The tokens with ids in the place of patch tokens that only the same image has."""
    keys = list(tokens)
    for span in spans:
        noise = array("I", hashlib.shake_128(span.digest).digest(_ID_BYTES * (span.end - span.start)))
        keys[span.start : span.end] = [_ABOVE_VOCABULARY | value for value in noise]
    return keys
