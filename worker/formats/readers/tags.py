"""How readers recognise the tags of `worker.formats.families`, with the slips that models make: attributes in another
order, other quotes or none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from worker.formats.families import Tag

# Longer than any tag with its name.
_TAG_CHARS = 300
_ATTRIBUTE = re.compile(r"""([\w.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))""")


@dataclass(frozen=True, slots=True)
class Named:
    """A tag that was read: the name in it, its attribute `kind` (empty without one), and the position of its end."""

    name: str
    kind: str
    end: int


class TagPattern:
    """Recognises a tag that names something. `value` is a second tag that must follow it, after white space at most."""

    def __init__(self, tag: Tag, value: str = "") -> None:
        self._tag = tag
        self._attribute = ""
        self.marker = tag.before
        if tag.before.endswith("="):
            body = r"\s*(?P<name>[^\s<>]+)(?:>|(?=[\s<]))"
        elif tag.before.endswith('"'):
            self.marker, _, attribute = tag.before.partition(" ")
            self._attribute = attribute.removesuffix('="')
            close = re.escape(tag.after.removeprefix('"'))
            body = rf"(?=\s)(?P<name>(?:(?!{close})[^<])*){close}"
        else:
            body = rf"(?P<name>.*?){re.escape(tag.after)}"
        gap = r"(?:\s|\\n)*" + re.escape(value) if value else ""
        self._match = re.compile(re.escape(self.marker) + body + gap, re.DOTALL).match

    def read(self, text: str, at: int, *, is_final: bool) -> Named | bool | None:
        """The tag at `at`, where its marker is. False where there is none, None while more text must tell."""
        match = self._match(text[: at + _TAG_CHARS], at)
        if match is None:
            return None if not is_final and len(text) - at < _TAG_CHARS else False
        if not self._attribute:
            return Named(match["name"].strip(), "", match.end())
        found = {name: _unescaped(a or b or c) for name, a, b, c in _ATTRIBUTE.findall(match["name"])}
        return Named(found.get(self._attribute, ""), found.get(self._tag.kind, ""), match.end())

    def is_as_written(self, text: str, at: int, name: str) -> bool:
        """Whether the tag at `at`, which was read, has its name as the family writes it, without slips."""
        return text.startswith(f"{self._tag.before}{name}{self._tag.after[0]}", at)


def _unescaped(text: str) -> str:
    return text.replace("&quot;", '"').replace("&amp;", "&").strip()


@cache
def pattern_of(tag: Tag, value: str = "") -> TagPattern:
    return TagPattern(tag, value)
