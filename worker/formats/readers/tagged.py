"""Calls written as markup: a tag with the tool's name, and in it one element per argument.

The families differ in their tags only; a `Grammar` says which. Names and values are read as mlx-lm's parsers read
them, except where those lose a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worker.formats.readers.json_text import JsonText
from worker.formats.readers.markers import find_first
from worker.formats.readers.reader import CallText
from worker.formats.readers.region import Region, Tools, dumps
from worker.formats.readers.values import Value

Match = re.Match[str]

# Text before a call inside its region, beyond which the region is taken to be prose about tool calls.
_PREAMBLE_CHARS = 200
_CDATA, _CDATA_END = "<![CDATA[", "]]>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """`call` begins a call (empty: the region's own start marker does), and `header` matches from there to the end
    of its head; `name_of` reads the tool's name from the match. `parameter` begins an argument, and `key` matches
    from there to the start of its value; `key_of` reads its name and, where the markup has one, its type. `json`
    begins an element that holds all arguments as one JSON object.

    `value(tools, tool, key, type)` makes the reader of a value. `fallback` reads a region without any call in it.
    """

    call: str
    header: re.Pattern[str]
    parameter: str
    key: re.Pattern[str]
    value_end: str
    call_end: str
    value: Callable[[Tools, str, str, str | None], Value]
    name_of: Callable[[Match], str] = lambda match: match[1].strip()
    key_of: Callable[[Match], tuple[str, str | None]] = lambda match: (match[1].strip(), None)
    fallback: Callable[[str, Tools], list[dict[str, Any]]] | None = None
    json: str = ""
    json_header: re.Pattern[str] | None = None
    json_end: str = ""
    cdata: bool = False


class TaggedCalls(Region):
    """`only` (tool names, case folded) is for markup without its outer marker: another name makes it text."""

    def __init__(
        self, start: str, end: str, grammar: Grammar, tools: Tools, *, only: frozenset[str] | None = None
    ) -> None:
        super().__init__(start, end)
        self._only = only
        self._grammar = grammar
        self._tools = tools
        self._preamble = ""
        self._suspected = False
        self._inside_markers = tuple(
            m for m in (grammar.parameter, grammar.json, grammar.call_end, end, grammar.call) if m
        )
        self._state = self._between if grammar.call and start != grammar.call else self._header

    # Between calls.

    def _between(self) -> bool:
        markers = (self._grammar.call, self.end) if self.end else (self._grammar.call,)
        at, marker = find_first(self._buffer, markers)
        before = self._preamble + self._buffer[:at]
        limit = len(before) - len(before.lstrip()) + _PREAMBLE_CHARS
        if len(before) > limit:
            self._take(limit - len(self._preamble))
            return self._show()
        self._preamble += self._take(at)
        if marker == self._grammar.call:
            self._take(len(marker))
            self._state = self._header
        elif marker:
            if not self._called:
                return self._no_call()
            self._show_preamble()
            return self._end_region()
        return bool(marker)

    def _show_preamble(self) -> None:
        """Text inside the region, around its calls."""
        if self._preamble.strip():
            self._events.append(CallText(self._preamble))
        self._preamble = ""

    def _no_call(self) -> bool:
        """The region ended without a call in it."""
        self._take(len(self.end))
        return self._leave() if self._fall_back() else self._show()

    def _fall_back(self) -> bool:
        """Read the region in whatever other shape the family knows; whether there was a call."""
        if self._grammar.fallback is None:
            return False
        calls = self._grammar.fallback(self._preamble, self._tools)
        for call in calls:
            self._whole(call["name"], call["arguments"])
        return bool(calls)

    def _header(self) -> bool:
        head = self._buffer[:_PREAMBLE_CHARS]
        match = self._grammar.header.match(head)
        end = head.find(self.end) if self.end else -1
        if match is not None and (end < 0 or match.end() <= end):
            self._take(match.end())
            self._tool = self._grammar.name_of(match)
            if not self._tool or (self._only is not None and self._tool.casefold() not in self._only):
                return self._show()
            self._show_preamble()
            self._begin(self._tool)
            self._count = 0
            self._state = self._inside
            return True
        if end >= 0:
            self._preamble += self._take(end)
            return self._no_call()
        return self._show() if len(self._buffer) >= _PREAMBLE_CHARS else False

    # Inside a call.

    def _inside(self) -> bool:
        grammar = self._grammar
        at, marker = find_first(self._buffer, self._inside_markers)
        self._take(at)
        if not marker:
            return False
        if marker == grammar.parameter:
            self._take(len(marker))
            self._state = self._key
        elif marker == grammar.json:
            self._take(len(marker))
            self._state = self._json_header
        else:
            self._arguments("}" if self._count else "{}")
            return self._close_call(marker, is_valid=True)
        return True

    def _close_call(self, marker: str, *, is_valid: bool) -> bool:
        """`marker` is next: the call's end, the region's, or the next call's start."""
        self._ended(is_valid)
        if marker in (self._grammar.call_end, self.end):
            self._take(len(marker))
        if marker == self.end or not self._grammar.call or self._only is not None:
            return self._leave()
        self._state = self._between
        return True

    def _key(self) -> bool:
        match = self._grammar.key.match(self._buffer)
        if match is None:
            # A key that never ends is given up at the next marker that may follow it.
            at, marker = find_first(self._buffer, (self._grammar.value_end, self._grammar.call_end))
            if marker:
                self._take(at + (len(marker) if marker == self._grammar.value_end else 0))
                self._state = self._inside
            return bool(marker)
        self._take(match.end())
        key, kind = self._grammar.key_of(match)
        self._value = self._grammar.value(self._tools, self._tool, key, kind)
        self._arguments(("{" if not self._count else ", ") + dumps(key) + ": ")
        self._count += 1
        self._value_end = self._grammar.value_end
        self._state = self._maybe_cdata if self._grammar.cdata else self._read_value
        return True

    def _maybe_cdata(self) -> bool:
        text = self._buffer.lstrip()
        if text.startswith(_CDATA):
            self._take(len(self._buffer) - len(text) + len(_CDATA))
            self._value_end = _CDATA_END
            self._value = self._value.verbatim()
        elif _CDATA.startswith(text) and not self._final:
            return False
        self._state = self._read_value
        return True

    # A value ends at its own end marker. The region's end marker inside it is content, unless the value never ends
    # or a new region begins right after: what comes after it is kept back until that is known.

    def _read_value(self) -> bool:
        markers = (self._value_end,) if self._suspected or not self.end else (self._value_end, self.end)
        at, marker = find_first(self._buffer, markers, len(self.end) if self._suspected else 0)
        if self._suspected and not marker:
            return False
        self._suspected = False
        self._arguments(self._value.feed(self._take(at)))
        if marker == self._value_end:
            self._take(len(marker))
            self._arguments(self._value.end())
            self._state = self._after_cdata if marker == _CDATA_END else self._inside
        elif marker:
            self._state = self._meet_end
        return bool(marker)

    def _meet_end(self) -> bool:
        after = self._buffer[len(self.end) :].lstrip()
        if after.startswith(self.start):
            return self._cut_value()
        if self.start.startswith(after) and not self._final:
            return False
        self._suspected = True
        self._state = self._read_value
        return True

    def _cut_value(self) -> bool:
        """The region's end marker inside the value was real, and the value's own is missing."""
        self._take(len(self.end))
        self._arguments(self._value.end() + "}" if self._complete else self._value.cut())
        self._ended(self._complete)
        return self._leave()

    def _after_cdata(self) -> bool:
        at, marker = find_first(self._buffer, (self._grammar.value_end,))
        self._take(at + len(marker))
        self._state = self._inside if marker else self._after_cdata
        return bool(marker)

    # All arguments as one JSON object.

    def _json_header(self) -> bool:
        assert self._grammar.json_header is not None
        match = self._grammar.json_header.match(self._buffer)
        if match is None:
            return False
        self._take(match.end())
        self._json = JsonText(watch=self._grammar.json_end, again=self._grammar.call)
        self._state = self._read_json
        return True

    def _read_json(self) -> bool:
        text = self._take(len(self._buffer))
        if not text:
            return False
        self._arguments(self._json.feed(text))
        if not (self._json.done or self._json.stuck):
            return False
        self._buffer = self._json.rest
        self._state = self._after_json
        return True

    def _after_json(self) -> bool:
        at, marker = find_first(self._buffer, (self._grammar.json_end, self._grammar.call_end, self.end))
        skipped = self._take(at)
        if not self._json.done and marker and not skipped.strip():
            self._arguments(self._json.close())
        elif not self._json.done:
            self._arguments(skipped)
        if marker == self._grammar.json_end:
            self._take(len(marker))
        elif marker:
            return self._close_call(marker, is_valid=self._json.done and self._json.is_object)
        return bool(marker)

    def _end_of_text(self) -> None:
        if self._state in (self._between, self._header):
            self._preamble += self._take(len(self._buffer))
            if self._called:
                self._show_preamble()
            elif not (self._complete and self._fall_back()):
                self._show()
        elif self._state in (self._read_value, self._meet_end):
            self._end_inside_value()
        elif self._state in (self._read_json, self._after_json):
            if self._complete and not self._json.done:
                self._arguments(self._json.close())
            self._ended(self._json.done and self._json.is_object)
        else:
            closed = self._complete and self._state in (self._inside, self._after_cdata)
            if closed:
                self._arguments("}" if self._count else "{}")
            self._ended(closed)

    def _end_inside_value(self) -> None:
        if self._suspected:
            self._cut_value()
            return
        self._arguments(self._value.feed(self._take(len(self._buffer))))
        self._arguments(self._value.cut())
        self._ended(False)
