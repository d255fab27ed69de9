"""A value that quotes a whole call of its own format: which of the markup in it belongs to the quotation.

A quotation begins where the start of a region stands with the head of a call behind it. From there on every closing tag
closes the innermost thing that the quotation has opened; what it has not opened belongs to the value's own call.
"""

from __future__ import annotations

import re

from worker.formats.families import Family, Tagged
from worker.formats.readers.tags import pattern_of

# What may stand open in a quotation.
_REGION, _CALL, _VALUE = "region", "call", "value"
# Between the start of a region and the head of its call: white space, or, where a call has no tag, its name.
_GAP = re.compile(r"\s{0,64}")
_NAME = re.compile(r"\s{0,64}[\w.:-]{1,128}\s{0,64}")


class Quotation:
    """The markup that a value has opened itself. `is_bare`: the value's own call has no region, so the tag of a call
    alone begins a quotation, too."""

    __slots__ = ("_call", "_closing", "_head", "_key", "_open", "_value_end", "starts")

    def __init__(self, family: Family, shape: Tagged, *, is_bare: bool) -> None:
        call = pattern_of(shape.call).marker if shape.call else ""
        is_one = bool(call) and family.start.startswith(call)  # the tag of the call begins the region
        self._call = "" if is_one else call
        self._head = "" if is_one else call or pattern_of(shape.key).marker
        self._key = shape.value or pattern_of(shape.key).marker
        self._value_end = shape.value_end
        self._closing = {shape.call_end: (_CALL,), family.end: (_REGION, _CALL)}
        self._open: list[str] = []
        self.starts = {family.start: _REGION} | ({self._call: _CALL} if is_bare and self._call else {})

    @property
    def markers(self) -> tuple[str, ...]:
        """What has to be looked for besides the markers that may end the value."""
        if not self._open:
            return tuple(self.starts)
        return tuple(filter(None, (*self.starts, self._call, self._key, *self._closing)))

    def begins(self, text: str, at: int, marker: str, *, is_final: bool) -> bool | None:
        """Whether the start at `at` begins a quotation; None while more text must tell."""
        if self.starts[marker] == _CALL or not self._head:
            return True
        begun = at + len(marker)
        gap = (_GAP if self._call else _NAME).match(text, begun)
        following = gap.end() if gap else begun
        if gap and text.startswith(self._head, following):
            return True
        return None if not is_final and self._head.startswith(text[following:]) else False

    def open(self, marker: str) -> None:
        """One of the `starts` begins a quotation."""
        self._open.append(self.starts[marker])

    def holds(self, marker: str) -> bool:
        """Whether any other marker that stands here is the quotation's."""
        return bool(self._open) and (marker != self._value_end or self._open[-1] == _VALUE)

    def take(self, marker: str) -> None:
        """A marker that it holds."""
        innermost = self._open[-1]
        if marker == self._value_end:
            self._open.pop()
        elif innermost in self._closing.get(marker, ()):
            self._close(self._closing[marker][0])
        elif marker == self._call and innermost == _REGION:
            self._open.append(_CALL)
        elif marker == self._key and innermost == (_CALL if self._call else _REGION):
            self._open.append(_VALUE)

    def _close(self, kind: str) -> None:
        while self._open and self._open.pop() != kind:
            pass
