"""Calls whose arguments, and everything inside them, are elements of their own names: MiniMax M3.

The end of an argument's element counts as it does in `worker.formats.readers.tagged`: where another declared argument
follows, or the end of the call and of the region, or the next call; with a required argument missing, the call's end
only where no argument comes later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from worker.formats.conversion import TEXT, Kinds, converted, readable
from worker.formats.families import Family, Nested
from worker.formats.readers.definitions import Tools
from worker.formats.readers.json_text import escape
from worker.formats.readers.markers import find_first
from worker.formats.readers.region import Region, dumps
from worker.formats.schemas import branches, types

_NAME = re.compile(r"<invoke\s+name\s*=\s*[\"']?([^\"'>]+)[\"']?\s*>")
_ELEMENT = re.compile(r"<(/?)([^<>/\s][^<>]*?)>")
_TAG_CHARS = 300


class NestedCalls(Region):
    """Every argument is passed on when it is whole: only then it is known whether it holds elements."""

    def __init__(self, family: Family, shape: Nested, tools: Tools, start: str) -> None:
        super().__init__(start, family.end)
        self._space, self._item = shape.space, shape.item
        self._tools = tools
        self._state = self._between

    def _tag(self, pattern: re.Pattern[str], at: int) -> re.Match[str] | bool | None:
        """The tag behind the marker at `at`; False where there is none, None while more text must tell."""
        begin = at + len(self._space)
        match = pattern.match(self._buffer, begin, begin + _TAG_CHARS)
        if match is None:
            return None if not self._final and len(self._buffer) - begin < _TAG_CHARS else False
        return match

    def _between(self) -> bool:
        self._skip_space()
        ends = self._ends_here()
        if not self._buffer or ends is None:
            return False
        if ends:
            return self._end_region()
        if not self._buffer.startswith(self._space):
            return False if self._space.startswith(self._buffer) and not self._final else self._show()
        match = self._tag(_NAME, 0)
        if match is None:
            return False
        if not isinstance(match, re.Match):
            return self._show()
        self._take(match.end())
        self._begin(match[1])
        self._declared = self._tools.of(match[1].strip())
        self._count = 0
        self._given: frozenset[str] = frozenset()
        self._state = self._inside
        return True

    def _inside(self) -> bool:
        at, marker = find_first(self._buffer, (self._space,))
        if not marker:
            return False
        match = self._tag(_ELEMENT, at)
        if match is None:
            return False
        if not isinstance(match, re.Match):
            self._take(at + len(marker))
            return True
        if match[1]:
            return self._close_call(at, match)
        self._take(match.end())
        self._key = match[2]
        self._given |= {self._key}
        self._state = self._read_argument
        return True

    def _close_call(self, at: int, match: re.Match[str]) -> bool:
        self._arguments("}" if self._count else "{}")
        self._take(at if match[2] == "tool_call" else match.end())
        self._ended(True)
        self._state = self._between
        return True

    def _read_argument(self) -> bool:
        """Up to the element's own end."""
        at = self._argument_end()
        if at < 0:
            return False
        self._write(self._take(at))
        self._take(len(self._space) + len(self._key) + len("</>"))
        self._state = self._inside
        return True

    def _argument_end(self) -> int:
        """Where the argument's element ends, -1 while that is not known. At the end of the text a likely end is one."""
        ends = list(self._ends())
        sure = [at for at, is_end in ends if is_end]
        if sure or not self._final:
            return sure[0] if sure else -1
        likely = [at for at, is_end in ends if is_end is None]
        return (likely or [at for at, _ in ends] or [-1])[0]

    def _ends(self) -> Iterator[tuple[int, bool | None]]:
        """Where the element may end, and whether it does (None: not if more arguments come)."""
        closing = len(f"{self._space}</{self._key}>")
        at = self._end_of(self._buffer, 0, self._key)
        while at >= 0:
            yield at, self._closes(at + closing)
            at = self._end_of(self._buffer, at + closing, self._key)

    def _closes(self, at: int) -> bool | None:
        match = self._next_tag(at)
        if not isinstance(match, re.Match):
            return match
        if not match[1]:
            return self._declared.may_begin(match[2], self._given)
        ends = self._goes_on(match.end()) if match[2] == "invoke" else match[2] == "tool_call"
        return None if ends and not self._declared.required <= self._given else ends

    def _goes_on(self, at: int) -> bool | None:
        """Whether behind a call the region ends or the next call begins."""
        match = self._next_tag(at)
        return match[2].startswith(("tool_call", "invoke")) if isinstance(match, re.Match) else match

    def _next_tag(self, at: int) -> re.Match[str] | bool | None:
        """The tag that is next, white space aside; None while there is none, False where there is something else."""
        while at < len(self._buffer) and self._buffer[at].isspace():
            at += 1
        if not self._buffer.startswith(self._space, at):
            return None if self._space.startswith(self._buffer[at:]) else False
        return self._tag(_ELEMENT, at)

    def _write(self, text: str) -> None:
        self._arguments(("{" if not self._count else ", ") + dumps(self._key) + ": ")
        self._count += 1
        schema, kinds = self._declared.schemas.get(self._key, {}), self._declared.kinds.get(self._key)
        self._arguments(self._json(text, schema, readable(kinds, "text"), may_nest=kinds is None or kinds != TEXT))

    def _json(self, text: str, schema: Any, kinds: Kinds, *, may_nest: bool) -> str:
        """A list of the items, or an object of the elements, that the text holds; without any, what it spells. Where
        only a string fits, the elements are its text."""
        elements = self._elements(text) if may_nest else []
        if not elements:
            found = converted(text, kinds)
            return found if found is not None else f'"{escape(text)}"'
        inside = branches(schema, self._declared.root)
        if all(name == self._item for name, _ in elements):
            item: Any = next((branch["items"] for branch in inside if "items" in branch), {})
            return f"[{', '.join(self._inner(inner, item) for _, inner in elements)}]"
        known = {key: value for branch in inside for key, value in (branch.get("properties") or {}).items()}
        values = {name: self._inner(inner, known.get(name, {})) for name, inner in elements}
        return "{" + ", ".join(f"{dumps(name)}: {value}" for name, value in values.items()) + "}"

    def _inner(self, text: str, schema: Any) -> str:
        kinds = types(schema, self._declared.root)
        return self._json(text, schema, readable(kinds, "text"), may_nest=kinds != TEXT)

    def _elements(self, text: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        at = text.find(self._space)
        while at >= 0:
            match = _ELEMENT.match(text, at + len(self._space))
            if match is None or match[1]:
                break
            end = self._end_of(text, match.end(), match[2])
            if end < 0:
                break
            found.append((match[2], text[match.end() : end]))
            at = text.find(self._space, end + len(self._space) + len(match[2]) + len("</>"))
        return found

    def _end_of(self, text: str, at: int, name: str) -> int:
        """Where the element whose inside begins at `at` ends, -1 when it does not: its own name may stand in it."""
        opening, closing = f"{self._space}<{name}>", f"{self._space}</{name}>"
        depth = 1
        while depth:
            end = text.find(closing, at)
            if end < 0:
                return -1
            depth += text.count(opening, at, end) - 1
            at = end + len(closing)
        return at - len(closing)

    def _end_of_text(self) -> None:
        if self._state == self._between:
            self._end_between()
            return
        if self._state == self._read_argument:
            self._write(self._take(len(self._buffer)))
            self._ended(False)
            return
        if self._complete:
            self._arguments("}" if self._count else "{}")
        self._ended(self._complete)
