"""The pieces a conversation grows by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from shared.exact import ExactNumber
from shared.messages import DocumentPart, ImagePart, Message, ToolResultPart
from worker.prompt.image_files import Image
from worker.prompt.image_pieces import images_of
from worker.prompt.numbers import short

Kind = Literal["user", "assistant", "tool"]


class Unit:
    """One user or assistant message, or all results of one turn (and the user text after them, where the template
    needs both in one). `end` is the number of messages up to and including it. `key` identifies its content.
    `dicts`, what the template reads, are built when first asked for: most units of a long conversation never are."""

    def __init__(
        self,
        kind: Kind,
        key: Any,
        end: int,
        build: Callable[[], Sequence[dict[str, Any]]],
        messages: Sequence[Message] = (),
    ) -> None:
        self.kind = kind
        self.key = key
        self.end = end
        self.messages = messages
        self._build = build

    @cached_property
    def dicts(self) -> Sequence[dict[str, Any]]:
        return self._build()

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Those in its messages that might be numbers of calls."""
        return frozenset().union(*map(short, _texts_of(self.dicts)))

    @property
    def images(self) -> list[Image]:
        """In the order in which the template is given them."""
        return images_of(self.dicts) if self.has_images else []

    @property
    def file_bytes(self) -> int:
        """What the files in its messages take, of which the prompt's tokens tell nothing."""
        return sum(_file_bytes(message.parts) for message in self.messages)

    @property
    def has_images(self) -> bool:
        return any(_images_in(message.parts) for message in self.messages)


def _texts_of(value: Any) -> Iterator[str]:
    """Every text and number, keys too."""
    if isinstance(value, Mapping):
        yield from map(str, value)
        value = list(value.values())
    if isinstance(value, str | int | float):
        yield str(value)
    elif isinstance(value, ExactNumber):
        yield value.text
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts_of(item)


def _file_bytes(parts: Iterable[Any]) -> int:
    total = 0
    for part in parts:
        if isinstance(part, DocumentPart):
            total += len(part.data)
        elif isinstance(part, ToolResultPart):
            total += _file_bytes(part.parts)
    return total


def _images_in(parts: Iterable[Any]) -> bool:
    return any(
        isinstance(part, ImagePart) or (isinstance(part, ToolResultPart) and _images_in(part.parts)) for part in parts
    )
