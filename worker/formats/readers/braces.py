"""Calls written as `call:NAME{key:value,…}` with a marker instead of quotes: Gemma 4 and FunctionGemma."""

from __future__ import annotations

import re

from worker.formats.readers.json_text import JsonText
from worker.formats.readers.region import Region

_HEADER = re.compile(r"call:([\w-]+)(?=\{)")
_PART = re.compile(r"c(?:a(?:l(?:l(?::[\w-]*)?)?)?)?")


class BraceCalls(Region):
    def __init__(self, start: str, end: str, *, quote: str, bare_text: bool) -> None:
        super().__init__(start, end)
        self._quote, self._bare_text = quote, bare_text
        self._state = self._between

    def _between(self) -> bool:
        while self._buffer and (self._buffer[0].isspace() or self._buffer[0] == ","):
            self._take(1)
        ends = self._ends_here()
        if not self._buffer or ends is None:
            return False
        if ends:
            return self._end_region()
        match = _HEADER.match(self._buffer)
        if match is not None:
            self._take(match.end())
            self._begin(match[1])
            self._value = JsonText(raw_quote=self._quote, raw_end=self.end, bare_text=self._bare_text)
            self._state = self._inside
            return True
        if _PART.fullmatch(self._buffer) and not self._final:
            return False
        return self._show()

    def _inside(self) -> bool:
        value = self._value
        text = self._take(len(self._buffer))
        if not text:
            return False
        self._arguments(value.feed(text))
        if not (value.done or value.stuck):
            return False
        self._buffer = value.rest
        if value.done:
            self._ended(True)
            self._state = self._between
        else:
            self._state = self._broken
        return True

    def _broken(self) -> bool:
        """Not `key:value` any more: the end marker may be next (brackets left out), else shown as it is."""
        ends = self._ends_here()
        if not self._buffer or ends is None:
            return False
        if ends:
            self._arguments(self._value.close())
            self._ended(self._value.done)
            self._state = self._between
            return True
        self._state = self._verbatim
        return True

    def _verbatim(self) -> bool:
        return self._pass_on(self.end, self._between)

    def _end_of_text(self) -> None:
        if self._state == self._between:
            self._end_between()
            return
        if self._complete and self._state != self._verbatim:
            self._arguments(self._value.close())
        self._ended(self._value.done)
