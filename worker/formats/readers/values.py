"""One argument's value in a markup family: streamed as a JSON string where it is certain to be one, else read whole."""

from __future__ import annotations

from worker.formats.conversion import TEXT, Kinds, converted, is_text
from worker.formats.readers.json_text import JsonText, escape


class Value:
    """`kinds` are the types that the text may be read as. `frame` is what the markup puts around it: one such at each
    end is none of the value."""

    def __init__(self, kinds: Kinds, frame: str = "") -> None:
        self._kinds = kinds
        self._frame = frame
        self._held = ""
        self._is_framed = not frame
        self._is_text = False

    def feed(self, text: str) -> str:
        """JSON text that has become certain."""
        self._held += text
        if not self._is_framed and self._held:
            self._held = self._held.removeprefix(self._frame)
            self._is_framed = True
        opening = self._open() if not self._is_text else ""
        return opening + self._certain() if self._is_text else ""

    def _open(self) -> str:
        # (A string of nothing is begun only at its end: the value may be left out.)
        if not self._held or not is_text(self._held, self._kinds):
            return ""
        self._is_text = True
        return '"'

    def _certain(self) -> str:
        """All but a line break at the end, which may be the frame's."""
        kept = "\n" if self._held.endswith("\n") else ""
        text, self._held = self._held.removesuffix(kept), kept
        return escape(text)

    def end(self, *, is_closed: bool = True) -> str:
        """The rest of the value's JSON. Where its end marker is missing, a line break before the next is none of it."""
        text = self._held.removesuffix(self._frame if is_closed else "\n")
        if self._is_text:
            return escape(text) + '"'
        found = converted(text, self._kinds)
        if found is None:
            found = _repaired(text, self._kinds)
        return f'"{escape(text)}"' if found is None else found

    def cut(self) -> str:
        """What is known of the rest when generation stops inside the value."""
        if self._is_text:
            return escape(self._held)
        return '"' + escape(self._held) if self._kinds <= TEXT else self._held

    def unframed(self) -> Value:
        """The same in a CDATA section."""
        return Value(self._kinds)


def _repaired(text: str, kinds: Kinds) -> str | None:
    """An object or array in Python's notation, or with slips of which each has one reading."""
    if "string" in kinds or text.lstrip()[:1] not in ("{", "["):
        return None
    value = JsonText()
    found = value.feed(text.strip()) + value.close()
    return found if value.done and not value.rest.strip() else None
