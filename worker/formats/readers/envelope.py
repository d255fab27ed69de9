"""Calls written as JSON objects that hold a name and arguments, alone, in a list, or one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from shared import exact
from worker.formats.readers.json_text import JsonText
from worker.formats.readers.region import Region, whole_text

_NAME_KEYS = ("name", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters")
_WRAPPERS = ("function", "tool_call")
FENCE = "```"
_OPENING = re.compile(r"\s*```\w*\s*(?=[\[{])")
_OPENING_BEGUN = re.compile(r"\s*(?:`{0,2}|```\w*\s*)")
_CALL_KEYS = (*_NAME_KEYS, *_ARGUMENT_KEYS, *_WRAPPERS, "id", "tool_call_id", "type")


class ArgumentsMixin(Region):
    """Streams one JSON value as a call's arguments, and knows every way in which it can end."""

    _value: JsonText
    _after_arguments: Callable[[], bool]
    _watch: str
    _again: str

    def _begin_arguments(self, following: Callable[[], bool]) -> None:
        self._value = JsonText(watch=self._watch, again=self._again)
        self._after_arguments = following
        self._state = self._stream_arguments

    def _stream_arguments(self) -> bool:
        value = self._value
        text = self._take(len(self._buffer))
        if not text and not (value.done or value.stuck):
            return False
        self._arguments(value.feed(text))
        if value.cut:
            return self._cut()
        if value.done or value.stuck:
            self._buffer = value.rest + self._buffer
            value.rest = ""
            self._state = self._after_arguments
            return True
        return False

    def _close_arguments(self) -> bool:
        """At the region's end: complete what has one reading. True when the arguments are a JSON object."""
        value = self._value
        if not value.done and self._complete:
            self._arguments(value.close())
        return value.done and value.is_object

    def _cut(self) -> bool:
        """The end marker stood inside a string and was real."""
        self._buffer = self._value.rest + self._buffer
        self._ended(False)
        return self._leave()

    def _verbatim(self) -> bool:
        """Arguments that stopped being JSON: shown as they are, up to the end marker."""
        return self._pass_on(self._watch, self._after_verbatim)

    def _after_verbatim(self) -> bool:
        self._take(len(self._watch))
        return self._leave()


class JsonCalls(ArgumentsMixin):
    """`only` (tool names, case folded) is for text without markers: what does not name one of these tools and bring
    arguments for it is text. `keyed`: an object may have the name as its only key. `fenced`: a code fence opens before
    them."""

    def __init__(
        self, start: str, end: str, *, only: frozenset[str] | None = None, keyed: bool = False, fenced: bool = False
    ) -> None:
        super().__init__(start, end)
        self._only = only
        self._keyed = keyed
        self._watch, self._again = end, start
        self._in_list = False
        self._reset()
        self._state = self._opening if fenced else self._between

    def _opening(self) -> bool:
        """Before the objects, where a code fence opens; it may be missing."""
        if opening := _OPENING.match(self._buffer):
            self._take(opening.end())
        elif not self._final and _OPENING_BEGUN.fullmatch(self._buffer):
            return False
        self._state = self._between
        return True

    def _reset(self) -> None:
        self._name = ""
        self._begun = False
        self._kept: str | None = None
        self._has_arguments = False
        self._valid = True
        self._nested = 0

    def _between(self) -> bool:
        """Before, between and after the objects."""
        self._skip_space()
        ends = self._ends_here()
        if not self._buffer or ends is None:
            return False
        if ends:
            return self._end_region()
        char = self._buffer[0]
        if char == "{":
            self._take(1)
            self._reset()
            self._state = self._next_key
        elif char == "[" and not self._in_list:
            self._take(1)
            self._in_list = True
        elif char in ",;]}":
            self._take(1)
            if self._called:
                self._shown = ""
        else:
            return self._show()
        return True

    def _next_key(self) -> bool:
        while self._buffer and (self._buffer[0].isspace() or self._buffer[0] == ","):
            self._take(1)
        ends = self._ends_here()
        if not self._buffer or ends is None:
            return False
        if self._buffer[0] == "}":
            self._take(1)
            if self._nested:
                self._nested -= 1
                return True
            return self._end_call()
        if ends:
            return self._end_call()
        self._value = JsonText()
        self._collected = ""
        self._state = self._read_key
        return True

    def _read_key(self) -> bool:
        if not self._collect():
            return False
        if self._value.stuck or self._value.first not in "\"'":
            return self._broken()
        self._key = str(json.loads(self._collected))
        if self._only is not None and not self._begun and self._key not in _CALL_KEYS:
            return self._show()
        self._state = self._read_colon
        return True

    def _read_colon(self) -> bool:
        self._skip_space()
        if not self._buffer:
            return False
        if self._buffer[0] != ":":
            return self._broken()
        self._take(1)
        self._state = self._begin_value
        return True

    def _begin_value(self) -> bool:
        self._skip_space()
        if not self._buffer:
            return False
        char = self._buffer[0]
        if self._key in _WRAPPERS and char == "{":
            self._take(1)
            self._nested += 1
            self._state = self._next_key
            return True
        if self._keyed and not self._name and char == "{":
            self._name, self._key = self._key, _ARGUMENT_KEYS[0]
        if self._key in _ARGUMENT_KEYS and not self._has_arguments and self._name and char in "{[":
            self._has_arguments = True
            if not self._announce():
                return self._show()
            self._begin_arguments(self._arguments_ended)
            return True
        self._value = JsonText(watch=self.end)
        self._collected = ""
        self._state = self._read_value
        return True

    def _read_value(self) -> bool:
        if not self._collect():
            return False
        if self._value.stuck:
            self._buffer = self._buffer if not self._begun else self._collected + self._buffer
            return self._broken()
        if self._key in _NAME_KEYS or (self._key in _WRAPPERS and not self._name):
            name = str(json.loads(self._collected)) if self._value.first in "\"'" else ""
            if not name.strip():
                return self._broken()
            self._name = name
        elif self._key in _ARGUMENT_KEYS and not self._has_arguments:
            self._has_arguments = True
            self._kept = self._collected
        if not self._announce():
            return self._show()
        self._state = self._next_key
        return True

    def _collect(self) -> bool:
        """Feed the value being read; whether it has ended."""
        value = self._value
        self._collected += value.feed(self._take(len(self._buffer)))
        if not (value.done or value.stuck):
            return False
        self._give_back(value.rest)
        value.rest = ""
        return True

    def _give_back(self, text: str) -> None:
        self._buffer = text + self._buffer
        if self._shown is not None and text:
            self._shown = self._shown[: -len(text)]

    def _announce(self) -> bool:
        """The call begins with its name; arguments that came before it follow at once. False when it is none."""
        if not self._name or (self._only is not None and not self._has_arguments):
            return True
        if self._only is not None and self._name.casefold() not in self._only:
            return False
        if not self._begun:
            self._begun = True
            self._begin(self._name)
        if self._kept is not None:
            text, self._valid = unwrap(self._kept)
            self._arguments(text)
            self._kept = None
        return True

    def _arguments_ended(self) -> bool:
        self._valid = self._value.done and self._value.is_object
        if not self._value.stuck:
            self._state = self._next_key
            return True
        ends = self._ends_here()
        if ends is None:
            return False
        if ends:
            self._valid = self._close_arguments()
            return self._end_call()
        self._state = self._verbatim
        return True

    def _end_call(self) -> bool:
        if not self._begun:
            return self._broken()
        if not self._has_arguments:
            self._arguments("{}")
        self._ended(self._valid)
        self._state = self._between
        return True

    def _broken(self) -> bool:
        """Not the JSON of a call: with a name, the rest are its arguments as they stand; without one it is text."""
        if not self._begun:
            return self._show()
        self._state = self._verbatim
        return True

    def _end_of_text(self) -> None:
        if self._state == self._between:
            self._end_between()
        elif not self._begun:
            self._take(len(self._buffer))
            self._show()
        elif self._state == self._stream_arguments and self._value.suspect is not None:
            self._value.give_up()
            self._cut()
        elif self._state in (self._stream_arguments, self._arguments_ended):
            self._ended(self._close_arguments())
        else:
            if self._state == self._verbatim:
                self._valid = False
                self._arguments(self._take(len(self._buffer)))
            elif self._state == self._read_value and self._key in _ARGUMENT_KEYS:
                self._valid = False
                self._arguments(self._collected + self._buffer)
            elif not self._has_arguments:
                self._valid = self._complete
                self._arguments("{}" if self._complete else "")
            self._ended(self._valid)


def unwrap(text: str) -> tuple[str, bool]:
    """Arguments that were read as one JSON value: an object as it is, the object inside a string, nothing as {}.
    Second: whether the result is a JSON object."""
    try:
        value = exact.loads(text)
    except (ValueError, RecursionError):
        return text, False
    if isinstance(value, dict):
        return text, True
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}", True
    if isinstance(value, str):
        inner = JsonText()
        out = inner.feed(whole_text(value)) + inner.close()
        if inner.done and inner.is_object and not inner.rest.strip():
            return out, True
        return whole_text(value), False
    return text, False
