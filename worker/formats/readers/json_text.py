"""One JSON value out of generated text that arrives in pieces: valid JSON passes through unchanged, the slips that
models make are repaired where they have one reading, everything else is left for the caller to show as it is.

Repaired: escapes JSON does not know (`\\d` means a backslash and a d), line breaks and tabs inside strings, quotes
inside strings that cannot be their end, single quotes, unquoted keys, True/False/None, a comma before a closing
bracket, closing brackets left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from worker.formats.readers.markers import partial

_MAX_DEPTH = 256
_SPACE = " \t\r\n"
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
    "NaN": "null",
    "Infinity": "null",
    "-Infinity": "null",
}
_KEY = re.compile(r"[A-Za-z_$][\w$-]*")
_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_CLOSER = {"{": "}", "[": "]"}
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")
# Behind which a value begins, and a raw quote with it.
_BEFORE_RAW = frozenset(":[,{")
# Behind the comma after a raw string in an object: a key, or what may yet be one.
_NEXT = re.compile(r"\s*(?:[A-Za-z_$][\w$-]*\s*:|[\"'}])")
_NEXT_PART = re.compile(r"\s*(?:[A-Za-z_$][\w$-]*\s*)?")
_BARE = re.compile(r"[^\s,\[\]{}:\"'<]+")
_BARE_TEXT = re.compile(r"[^,\[\]{}<]+")


def escape(text: str) -> str:
    """The inside of a JSON string that means `text`."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class JsonText:
    """Reads one value. `feed` returns the JSON text that has become certain.

    Afterwards exactly one of these holds: more text is needed; `done`, with what came after the value in `rest`; or
    `stuck`, with `rest` beginning where the text stops being JSON.

    `watch` is the marker that ends the surrounding call, `again` the one that would begin the next. Inside a string
    `watch` may be content, or the end of a call whose closing quote is missing. It is the end when a line break and
    `again` follow (then the value is `cut`, and `rest` is what comes after `watch`); otherwise nothing is certain from
    there on, until the value ends properly (it was content) or the text does (the caller calls `give_up`). With `again`
    right behind it, it is the end, too, where the string is no JSON from there on.

    `raw_quote` replaces quotes and escapes (Gemma: everything between two of them is a string as it stands). It ends a
    string only where what may follow one does, `raw_end` too, the marker that ends the call; else it is text of it.
    `bare_text` lets an unquoted value be a string.
    """

    def __init__(
        self, *, watch: str = "", again: str = "", raw_quote: str = "", raw_end: str = "", bare_text: bool = False
    ) -> None:
        self.done = False
        self.stuck = False
        self.rest = ""
        self.first = ""
        self.cut = False
        self.suspect: str | None = None
        self._watch = watch
        self._again = again
        self._raw_quote, self._raw_end = raw_quote, raw_end
        self._bare_text = bare_text
        self._stack: list[str] = []
        self._state: Callable[[str, int], int] = self._value
        self._out: list[str] = []
        self._certain: int | None = None
        self._pending = ""
        self._comma = ""
        self._quote = '"'
        self._is_key = False
        self._final = False
        self._quoted = 0  # raw quotes that are open in a raw string
        self._last = ""  # character of it
        self._is_next_begun = False  # behind the suspect
        self._is_refuted = False
        excluded = "\"'\\\\\\x00-\\x1f" + (re.escape(watch[0]) if watch else "")
        self._run = re.compile(f"[^{excluded}]+")

    @property
    def is_object(self) -> bool:
        return self.first == "{"

    def feed(self, text: str) -> str:
        if self.done or self.stuck:
            self.rest += text
            return ""
        if self.suspect is not None:
            self.suspect += text
        text = self._pending + text
        self._pending = ""
        at, length = 0, len(text)
        while at < length and not (self.done or self.stuck or self._is_refuted):
            following = self._state(text, at)
            if following < 0:
                self._pending = text[at:]
                break
            at = following
        if self._is_refuted:
            return self._cut_at_suspect()
        if self.done or self.stuck:
            self.rest = text[at:]
        return self._drain()

    def _cut_at_suspect(self) -> str:
        certain = self._drain()
        self.give_up()
        return certain

    def close(self) -> str:
        """No more text belongs to the value: whatever still has one reading is completed; `done` says whether it
        could be."""
        self._final = True
        out = ""
        if self._pending and not (self.done or self.stuck):
            out = self.feed("")
        if self.done or self._pending or self.suspect is not None:
            return out
        if self._state in (self._after, self._first_key, self._first_item, self._comma_key, self._comma_item):
            out += "".join(_CLOSER[opener] for opener in reversed(self._stack))
            self._stack.clear()
            self.stuck = False
            self.done = True
        return out

    def give_up(self) -> None:
        """The text has ended and the value has not: a marker inside a string was real."""
        if self.suspect is None:
            return
        self.rest = self.suspect
        self.suspect = None
        self._out.clear()
        self.stuck = self.cut = True

    def _drain(self) -> str:
        if self.suspect is not None and not self.done:
            certain = self._certain or 0
            out = "".join(self._out[:certain])
            del self._out[:certain]
            self._certain = 0
            return out
        out = "".join(self._out)
        self._out.clear()
        if self.done:
            self.suspect = None
        return out

    # Each state takes the text and a position and returns the next position, or -1 when it must see more.

    def _value(self, text: str, at: int) -> int:
        char = text[at]
        if char in _SPACE and not (self._bare_text and self._stack):
            if self._stack:
                self._out.append(char)
            return at + 1
        if not self.first:
            self.first = char
        if char in "{[":
            if len(self._stack) >= _MAX_DEPTH:
                return self._stick(at)
            self._stack.append(char)
            self._out.append(char)
            self._state = self._first_key if char == "{" else self._first_item
            return at + 1
        self._is_key = False
        return self._begin_string(text, at) or self._word(text, at)

    def _first_item(self, text: str, at: int) -> int:
        return self._close_bracket(at) if text[at] == "]" else self._value(text, at)

    def _first_key(self, text: str, at: int) -> int:
        return self._close_bracket(at) if text[at] == "}" else self._key(text, at)

    def _key(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            self._out.append(text[at])
            return at + 1
        self._is_key = True
        if begun := self._begin_string(text, at):
            return begun
        match = _BARE.match(text, at)
        if match is None or _KEY.fullmatch(match[0]) is None:
            return self._stick(at)
        if match.end() == len(text) and not self._final:
            return -1
        self._out.append(f'"{match[0]}"')
        self._state = self._colon
        return match.end()

    def _comma_key(self, text: str, at: int) -> int:
        return self._comma_next(text, at, "}", self._key)

    def _comma_item(self, text: str, at: int) -> int:
        return self._comma_next(text, at, "]", self._value)

    def _comma_next(self, text: str, at: int, closer: str, following: Callable[[str, int], int]) -> int:
        """After a comma, which is kept back: it does not belong before a closing bracket."""
        char = text[at]
        if char in _SPACE:
            self._comma += char
            return at + 1
        if char == closer:
            self._comma = ""
            return self._close_bracket(at)
        self._out.append(self._comma)
        self._comma = ""
        self._state = following
        return following(text, at)

    def _colon(self, text: str, at: int) -> int:
        if text[at] in _SPACE:
            self._out.append(text[at])
            return at + 1
        if text[at] != ":":
            return self._stick(at)
        self._out.append(":")
        self._state = self._value
        return at + 1

    def _after(self, text: str, at: int) -> int:
        char = text[at]
        if char in _SPACE:
            self._out.append(char)
            return at + 1
        if char == ",":
            self._comma = ","
            self._state = self._comma_key if self._stack[-1] == "{" else self._comma_item
            return at + 1
        if char in "}]":
            return self._close_bracket(at, char)
        return self._stick(at)

    def _close_bracket(self, at: int, char: str = "") -> int:
        """Closes the innermost bracket, and inner ones that were left open before `char`."""
        if char and not any(_CLOSER[opener] == char for opener in self._stack):
            return self._stick(at)
        while True:
            closer = _CLOSER[self._stack.pop()]
            self._out.append(closer)
            if not char or closer == char:
                break
        self._ended()
        return at + 1

    def _ended(self) -> None:
        if self._stack:
            self._state = self._after
        else:
            self.done = True

    def _stick(self, at: int) -> int:
        self.stuck = True
        return at

    def _begin_string(self, text: str, at: int) -> int:
        """Position inside the string that begins here, 0 when none does, -1 when that is not known yet."""
        if self._raw_quote:
            if text.startswith(self._raw_quote, at):
                self._out.append('"')
                self._state = self._raw_string
                return at + len(self._raw_quote)
            if not self._final and self._raw_quote.startswith(text[at:]):
                return -1
        if text[at] not in "\"'":
            return 0
        self._quote = text[at]
        self._out.append('"')
        self._state = self._string
        return at + 1

    def _end_string(self) -> None:
        self._is_next_begun = False
        self._out.append('"')
        if self._is_key:
            self._state = self._colon
        else:
            self._ended()

    def _raw_string(self, text: str, at: int) -> int:
        """Up to the quote that ends it. One with more behind it than may follow a string is text; where a value begins,
        it begins a string in a call that this one quotes, and the next ends that."""
        end = text.find(self._raw_quote, at)
        if end < 0:
            keep = partial(text, self._raw_quote, at)
            self._write_raw(text[at:keep])
            return keep if keep > at else -1
        self._write_raw(text[at:end])
        after = end + len(self._raw_quote)
        ends = self._ends_raw(text, after)
        if ends is None:
            return end if end > at else -1
        if self._last in _BEFORE_RAW and not ends:
            self._quoted += 1
        elif self._quoted:
            self._quoted -= 1
        elif ends:
            self._last = ""
            self._end_string()
            return after
        self._write_raw(text[end:after])
        return after

    def _write_raw(self, text: str) -> None:
        if text:
            self._last = text[-1]
            self._out.append(escape(text))

    def _ends_raw(self, text: str, following: int) -> bool | None:
        """Whether what stands behind a quote may follow a string; None while that cannot be known."""
        while following < len(text) and text[following] in _SPACE:
            following += 1
        if following == len(text):
            return True if self._final else None
        if self._is_key:
            return text[following] == ":"
        if text[following] == "," and self._stack[-1] == "{":
            return self._goes_on(text, following + 1)
        closers = ",]}" if "[" in self._stack else ",}"
        if text[following] in closers or (self._raw_end and text.startswith(self._raw_end, following)):
            return True
        return None if not self._final and self._raw_end.startswith(text[following:]) else False

    def _goes_on(self, text: str, at: int) -> bool | None:
        """Whether a key stands behind a comma; None while that cannot be known."""
        if text.startswith(self._raw_quote, at) or _NEXT.match(text, at):
            return True
        rest = text[at:]
        may_become = _NEXT_PART.fullmatch(rest) or self._raw_quote.startswith(rest.lstrip())
        return (True if self._final else None) if may_become else False

    def _string(self, text: str, at: int) -> int:
        match = self._run.match(text, at)
        if match is not None:
            self._out.append(match[0])
            return match.end()
        char = text[at]
        if char == self._quote:
            return self._maybe_end(text, at)
        if char == "\\":
            return self._escape(text, at)
        if char == '"':
            self._out.append('\\"')
        elif char < " ":
            self._is_refuted = self._is_next_begun
            self._out.append(_CONTROL.get(char) or f"\\u{ord(char):04x}")
        else:
            if self._watch and char == self._watch[0] and self.suspect is None:
                is_end = self._meets_watch(text, at)
                if is_end is None:
                    return -1
                if is_end:
                    self.stuck = self.cut = True
                    return at + len(self._watch)
            self._out.append(char)
        return at + 1

    def _meets_watch(self, text: str, at: int) -> bool | None:
        """Whether the call's end marker is here and is certainly its end; None when more text must tell."""
        if not text.startswith(self._watch, at):
            return None if not self._final and self._watch.startswith(text[at:]) else False
        after = text[at + len(self._watch) :]
        following = after.lstrip()
        if self._again and following.startswith(self._again):
            if "\n" in after[: len(after) - len(following)]:
                return True
            self._is_next_begun = True
        elif not self._final and self._again.startswith(following):
            return None
        self.suspect = after
        self._certain = len(self._out)
        return False

    def _maybe_end(self, text: str, at: int) -> int:
        """A quote ends a string only where something that may follow a string follows."""
        following = at + 1
        while following < len(text) and text[following] in _SPACE:
            following += 1
        ends = self._ends_before(text, following)
        if ends is None:
            return -1
        if ends:
            self._end_string()
            return at + 1
        char = text[following]
        if char == self._quote and following > at + 1:
            # `"a" "b"`: a comma may be missing, or both quotes belong to the text.
            self._end_string()
            self._state = self._stick_here
            return at + 1
        self._is_refuted = self._is_next_begun
        self._out.append('\\"' if self._quote == '"' else self._quote)
        return at + 1

    def _ends_before(self, text: str, following: int) -> bool | None:
        """Whether what stands at `following` may follow a string; None while that cannot be known."""
        if not self._stack:
            return True
        if following == len(text):
            return True if self._final else None
        if text[following] in (":" if self._is_key else ",]}"):
            return True
        if not self._watch or text[following] != self._watch[0]:
            return False
        if text.startswith(self._watch, following):
            return True
        return None if not self._final and self._watch.startswith(text[following:]) else False

    def _stick_here(self, text: str, at: int) -> int:
        return self._stick(at)

    def _escape(self, text: str, at: int) -> int:
        if at + 1 == len(text):
            return -1
        char = text[at + 1]
        if char == "u":
            digits = text[at + 2 : at + 6]
            if _HEX4.fullmatch(digits):
                self._out.append(text[at : at + 6])
                return at + 6
            if len(digits) < 4 and all(c in "0123456789abcdefABCDEF" for c in digits) and not self._final:
                return -1
            self._out.append("\\\\u")
            return at + 2
        if char in '"\\/bfnrt':
            self._out.append(text[at : at + 2])
        elif char == "'":
            self._out.append("'")
        else:
            self._out.append("\\\\")
            return at + 1
        return at + 2

    def _word(self, text: str, at: int) -> int:
        """A number, a literal, or (with `bare_text`) an unquoted string."""
        match = (_BARE_TEXT if self._bare_text else _BARE).match(text, at)
        if match is None:
            return self._stick(at)
        if match.end() == len(text) and not self._final:
            return -1
        word = match[0].strip()
        if _NUMBER.fullmatch(word):
            self._out.append(word)
        elif word in _WORDS:
            self._out.append(_WORDS[word])
        elif self._bare_text:
            self._out.append(f'"{escape(match[0])}"')
        else:
            return self._stick(at)
        self._ended()
        return match.end()
