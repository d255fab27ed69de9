"""Answers whose parts are each addressed to somebody, as Functionary's models write them: a tool, or everyone."""

from __future__ import annotations

from worker.formats.families import Headed
from worker.formats.readers.definitions import Tools
from worker.formats.readers.envelope import ArgumentsMixin


class AddressedCalls(ArgumentsMixin):
    """`BEGIN name MIDDLE {…}`, repeated. Only what is addressed to a tool that is offered is a call, for `BEGIN` may be
    text; what is addressed to everyone ends the region, without its address. `start` is empty where the prompt has
    written the first `BEGIN`."""

    def __init__(self, shape: Headed, tools: Tools, start: str) -> None:
        super().__init__(start, "")
        self._shape = shape
        self._tools = tools
        self._watch = self._again = ""
        self._state = self._address

    def _address(self) -> bool:
        name, middle, _ = self._buffer.partition(self._shape.middle)
        if not middle:
            return self._wait_for_address()
        if self._tools.offers(name):
            self._take(len(name + middle))
            self._begin(name)
            self._begin_arguments(self._after)
            return True
        if name != self._shape.everyone:
            return self._show()
        self._take(len(name + middle))
        self._shown = ""
        return self._leave()

    def _wait_for_address(self) -> bool:
        """More text may complete the address; else this is none."""
        begun = self._buffer.casefold()
        may_be = (name + self._shape.middle for name in (*self._tools.names, self._shape.everyone))
        if not self._final and any(address.startswith(begun) for address in may_be):
            return False
        return self._show()

    def _after(self) -> bool:
        if not self._value.done:
            self._state = self._verbatim
            return True
        self._ended(self._value.is_object)
        self._state = self._between
        return True

    def _between(self) -> bool:
        self._skip_space()
        begin = self._shape.begin
        if self._buffer.startswith(begin):
            self._take(len(begin))
            self._state = self._address
            return True
        if not self._final and begin.startswith(self._buffer):
            return False
        return self._show() if self._buffer else self._leave()

    def _verbatim(self) -> bool:
        return self._pass_on(self._shape.begin, self._between)

    def _end_of_text(self) -> None:
        if self._state == self._verbatim:
            self._ended(False)
        elif self._state != self._between:
            self._value.give_up()
            self._ended(self._close_arguments())
