"""Calls written as a name and a JSON object: DeepSeek, Kimi K2, Mistral and others."""

from __future__ import annotations

import re

from worker.formats.families import Family, Headed
from worker.formats.readers.envelope import ArgumentsMixin, JsonCalls
from worker.formats.readers.markers import find_first

_HEADER_CHARS = 300
_FENCE = "```"
_SPACE = r"\s*"
# What follows such a text in prose: words, or a tag without JSON behind it.
_NO_CALL = re.compile(r"[^\n<>{]*(?:[\n<{]|>\s*[^\s{])")


class HeadedCalls(ArgumentsMixin):
    """`BEGIN name MIDDLE {…} END`, repeated. White space counts nowhere, and a code fence may be too many."""

    def __init__(self, family: Family, shape: Headed, start: str) -> None:
        super().__init__(start, family.end)
        self._begin_tag = tag_of(shape.begin)
        self._end_tag = tag_of(shape.end)
        self._pattern = _header(shape)
        self._is_prose = shape.prose
        self._watch, self._again = self._end_tag, self._begin_tag
        self._state = self._header if start == self._begin_tag else self._between

    def _between(self) -> bool:
        self._skip_space()
        ends = self._ends_here()
        if not self._buffer or ends is None:
            return False
        if ends:
            return self._end_region()
        if not self._buffer.startswith(self._begin_tag):
            if self._begin_tag.startswith(self._buffer) and not self._final:
                return False
            if self._called:
                return self._show()
        self._state = self._header
        return True

    def _header(self) -> bool:
        at, marker = find_first(self._buffer[:_HEADER_CHARS], (self.end or self._end_tag, self._end_tag))
        match = self._pattern.match(self._buffer, 0, at)
        if match is not None:
            self._take(match.end())
            self._begin(match["name"])
            self._begin_arguments(self._after)
            return True
        begun = self._buffer.removeprefix(self._begin_tag)
        is_tag = self._begin_tag.startswith(self._buffer)  # or may become it
        is_text = self._is_prose and not is_tag and _NO_CALL.match(begun)
        if marker or len(self._buffer) >= _HEADER_CHARS or is_text:
            return self._show()
        return False

    def _after(self) -> bool:
        """After the arguments: the call's end, or the region's or the next call's beginning when that is missing."""
        self._skip_space()
        if self._buffer.startswith(_FENCE):
            self._take(len(_FENCE))
            self._skip_space()
        markers = tuple(marker for marker in (self._end_tag, self.end) if marker)
        for marker in markers:
            if self._buffer.startswith(marker):
                is_valid = self._close_arguments()
                if marker == self._end_tag:
                    self._take(len(marker))
                self._ended(is_valid)
                self._state = self._between
                return True
        if not self._buffer:
            return False
        if any(marker.startswith(self._buffer) for marker in (*markers, _FENCE)) and not self._final:
            return False
        if self._value.done:
            self._ended(self._value.is_object)
            self._state = self._between
        else:
            self._state = self._verbatim
        return True

    def _after_verbatim(self) -> bool:
        self._take(len(self._end_tag))
        self._shown = ""
        self._state = self._between
        return True

    def _cut(self) -> bool:
        self._buffer = self._value.rest + self._buffer
        self._ended(False)
        self._state = self._between
        return True

    def _end_of_text(self) -> None:
        if self._state in (self._between, self._header):
            self._end_between()
        elif self._state == self._verbatim:
            self._ended(False)
        else:
            self._value.give_up()
            self._ended(self._close_arguments())


def tag_of(text: str) -> str:
    """The tag in what stands around a call: without a code fence, and without what belongs to the name."""
    found = re.search(r"<[^<>]+>", text)
    return found[0] if found else text.strip()


def _header(shape: Headed) -> re.Pattern[str]:
    """Matches from the beginning of a call to its arguments."""
    prefix = shape.begin.removeprefix(tag_of(shape.begin))
    parts = [f"(?:{re.escape(tag_of(shape.begin))})?"]
    if prefix:
        parts.append(f"(?:{re.escape(prefix)})?")
    if shape.identified:
        parts.append(f"[^<]*{re.escape(shape.identified)}")
    parts.append(r"(?P<name>[^\n<{]+?)")
    if shape.counted:
        parts.append(r":\d+")
    if _FENCE in shape.middle:
        parts += [r"(?:<tool_sep>)?", r"```(?:json)?", r"(?=[{\[\"])"]
    else:
        parts.append(re.escape(shape.middle) + (r"\s*(?=\{)" if shape.prose else ""))
    return re.compile(_SPACE.join(["", *parts, ""]))


_MISTRAL_HEADER = re.compile(r"([\w-]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?\[ARGS\]\s*")
_MISTRAL_PART = re.compile(r"[\w-]*\s*(?:\[[A-Z_]{0,7}(?:\]\s*[\w-]*\s*(?:\[[A-Z]{0,4})?)?)?")


class MistralCalls(ArgumentsMixin):
    """`NAME[ARGS]{…}`, repeated, or a JSON list of calls. There is no end marker: other text ends the region."""

    def __init__(self, start: str, end: str) -> None:
        super().__init__(start, end)
        self._watch, self._again = "", start
        self._list: JsonCalls | None = None
        self._state = self._between

    def _between(self) -> bool:
        self._skip_space()
        if not self._buffer:
            return False
        if self._called and self._buffer.startswith(self.start):
            self._take(len(self.start))
            return True
        if self._called and self.start.startswith(self._buffer) and not self._final:
            return False
        if self._buffer[0] in "[{" and not self._called:
            self._list = JsonCalls(self.start + (self._shown or "")[len(self.start) :], "")
            self._state = self._in_list
            return True
        match = _MISTRAL_HEADER.match(self._buffer)
        if match is not None:
            self._take(match.end())
            self._begin(match[1])
            self._begin_arguments(self._after)
            return True
        if _MISTRAL_PART.fullmatch(self._buffer) and not self._final:
            return False
        return self._show()

    def _in_list(self) -> bool:
        assert self._list is not None
        text, self._buffer = self._buffer, ""
        self._events += self._list.feed(text)
        return self._leave_list() if self._list.done else False

    def _leave_list(self) -> bool:
        assert self._list is not None
        self._buffer = self._list.rest
        return self._leave()

    def _after(self) -> bool:
        if self._value.done:
            self._ended(self._value.is_object)
            self._state = self._between
        else:
            self._state = self._verbatim
        return True

    def _end_of_text(self) -> None:
        if self._state == self._in_list and self._list is not None:
            self._events += self._list.finish(complete=self._complete)
        elif self._state == self._between:
            self._end_between()
        elif self._state == self._verbatim:
            self._ended(False)
        else:
            self._ended(self._close_arguments())
