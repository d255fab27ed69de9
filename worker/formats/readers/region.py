"""What the readers of all families share: a buffer, the text to give back when there was no call, JSON helpers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared import exact
from worker.formats.readers.reader import CallBegun, CallDelta, CallEnded, CallEvent, CallText


def dumps(value: Any) -> str:
    """JSON for a client. Raises `ValueError` or `TypeError` for what JSON cannot say (NaN, sets, …)."""
    text = exact.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape
        return exact.dumps(value, allow_nan=False)
    return text


def whole_text(text: str) -> str:
    """Without halves of surrogate pairs, which escapes can spell and nothing can transport."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Region:
    """Base of the readers. A subclass sets `_state`, a method that consumes some of `_buffer` and says whether it
    got anywhere; `_end_of_text` is called when no state can go on and no text will come."""

    def __init__(self, start: str, end: str) -> None:
        self.done = False
        self.rest = ""
        self.start, self.end = start, end
        self._buffer = ""
        self._shown: str | None = start
        self._events: list[CallEvent] = []
        self._final = False
        self._complete = True
        self._called = False
        self._state: Callable[[], bool] = self._nothing

    def feed(self, text: str) -> list[CallEvent]:
        self._buffer += text
        return self._run()

    def finish(self, *, complete: bool) -> list[CallEvent]:
        if self.done:
            return []
        self._final, self._complete = True, complete
        events = self._run()
        if not self.done:
            self._end_of_text()
            self.done = True
            events += self._drain()
        return events

    def _run(self) -> list[CallEvent]:
        self._go_on()
        return self._drain()

    def _go_on(self) -> None:
        while not self.done and self._state():
            pass

    def _drain(self) -> list[CallEvent]:
        events, self._events = self._events, []
        return events

    def _nothing(self) -> bool:
        return False

    def _end_of_text(self) -> None:
        raise NotImplementedError

    def _take(self, length: int) -> str:
        """Consume text. Until a call begins, it is remembered: it may have to be shown."""
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        if self._shown is not None:
            self._shown += taken
        return taken

    def _skip_space(self) -> None:
        self._take(len(self._buffer) - len(self._buffer.lstrip()))

    def _leave(self) -> bool:
        """The region ends here; what is in the buffer comes after it."""
        self.done = True
        self.rest, self._buffer = self._buffer, ""
        return True

    def _show(self) -> bool:
        """What was consumed since the last call is no call: give it back and leave."""
        if self._shown:
            self._events.append(CallText(self._shown))
        self._shown = ""
        return self._leave()

    def _ends_here(self) -> bool | None:
        """Whether the end marker is next; None when more text must tell."""
        if not self.end:
            return False
        if self._buffer.startswith(self.end):
            return True
        if not self._final and self.end.startswith(self._buffer):
            return None
        return False

    def _end_region(self) -> bool:
        """Consume the end marker. A region without a call is shown whole."""
        self._take(len(self.end))
        return self._leave() if self._called else self._show()

    def _end_between(self) -> None:
        """No more text comes, and no call is open: what was no call is given back."""
        if not self._called or self._buffer:
            self._take(len(self._buffer))
            self._show()

    def _begin(self, name: str) -> None:
        self._called = True
        self._shown = None
        self._events.append(CallBegun(whole_text(name).strip()))

    def _arguments(self, text: str) -> None:
        if text:
            self._events.append(CallDelta(text))

    def _ended(self, is_valid: bool) -> None:
        self._events.append(CallEnded(is_valid))
        self._shown = ""

    def _pass_on(self, marker: str, following: Callable[[], bool]) -> bool:
        """A state: arguments that cannot be read pass as they are, up to the marker that ends the call ("": none)."""
        at = self._buffer.find(marker) if marker else -1
        if at < 0:
            keep = 0 if self._final else len(marker)
            self._arguments(self._take(max(0, len(self._buffer) - keep)))
            return False
        self._arguments(self._take(at))
        self._ended(False)
        self._state = following
        return True

    def _whole(self, name: str, arguments: Any) -> None:
        """A call that was read in one piece."""
        self._begin(name)
        try:
            text = whole_text(arguments) if isinstance(arguments, str) else dumps(arguments)
        except (TypeError, ValueError):
            text = whole_text(repr(arguments))
            arguments = None
        self._arguments(text)
        self._ended(isinstance(arguments, dict))
