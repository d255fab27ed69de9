"""Calls whose name is known before their text, which is nothing but the arguments: harmony."""

from __future__ import annotations

from worker.formats.readers.envelope import ArgumentsMixin
from worker.formats.readers.reader import CallText


class BodyCall(ArgumentsMixin):
    """One call; it ends when the text does. What follows its JSON is text."""

    def __init__(self, name: str) -> None:
        super().__init__("", "")
        self._watch = self._again = ""
        self._name = name
        self._is_open = True
        self._state = self._announce

    def _announce(self) -> bool:
        self._begin(self._name)
        self._state = self._before
        return True

    def _before(self) -> bool:
        self._skip_space()
        if not self._buffer:
            return False
        if self._buffer[0] == "{":
            self._begin_arguments(self._after_value)
        else:
            self._state = self._verbatim
        return True

    def _after_value(self) -> bool:
        self._state = self._verbatim if self._value.stuck else self._behind
        return True

    def _behind(self) -> bool:
        if self._is_open:
            self._skip_space()
        if not self._buffer:
            return False
        self._end_call(is_valid=True)
        self._events.append(CallText(self._take(len(self._buffer))))
        return False

    def _end_call(self, *, is_valid: bool) -> None:
        if self._is_open:
            self._is_open = False
            self._ended(is_valid)

    def _end_of_text(self) -> None:
        if self._state == self._before:
            self._arguments("{}" if self._complete else "")
            self._end_call(is_valid=self._complete)
        elif self._state == self._verbatim:
            self._end_call(is_valid=False)
        else:
            self._end_call(is_valid=self._close_arguments())
