"""Calls written as markup: a tag with the tool's name, and in it one element per argument.

A value is plain text and may spell any tag, the one that ends it too. What counts as the end of a value:

- its end marker, where an argument follows that the tool declares and that was not given yet, or the end of the call
  and of the region (of the text), white space between them aside;
- the beginning of such an argument, when the end marker is missing, if its tag is as the family writes it (and at the
  start of a line, where the family frames its values with line breaks): one with a slip in it is spoken of;
- the end of the call and the region, when the end marker is missing: where the text ends there or a new region begins,
  or nothing in all the rest of the text ends the value as above.

While a required argument is missing, the end of the call and of the region counts for nothing if an end marker with an
argument behind it comes later. Of a whole call that the value quotes, the markers are the quotation's
(`worker.formats.readers.quoted`), if the value ends later; where it does not, the quotation was none.

Everything else is the value's text. Only what is not decided yet is held back: after an end marker until a word of the
markup is there or cannot be; after an end of the region inside a value until the value ends; after the end of a call
without all required arguments until one more argument or the end of the text; after a quoted call until the value ends.
A value that spells its own end and then an argument that is still missing, or such an argument's tag exactly, or, where
no required one is missing, the end of its call and region, none of them as part of a whole call, is cut there: no
reader could tell.
"""

from __future__ import annotations

from worker.formats.conversion import ANY, TEXT, Kinds, readable
from worker.formats.families import Family, Tagged
from worker.formats.readers.definitions import Tools
from worker.formats.readers.json_text import JsonText
from worker.formats.readers.markers import find_first
from worker.formats.readers.quoted import Quotation
from worker.formats.readers.reader import CallText
from worker.formats.readers.region import Region, dumps
from worker.formats.readers.tags import Named, pattern_of
from worker.formats.readers.values import Value

# Text before a call inside its region, beyond which the region is taken to be prose about tool calls.
_PREAMBLE_CHARS = 200
_CDATA, _CDATA_END = "<![CDATA[", "]]>"


class TaggedCalls(Region):
    """`start` is the marker that was met: the region's, or (`is_bare`) a call's whose region marker is missing. Then
    only the name of an offered tool makes it a call."""

    def __init__(self, family: Family, shape: Tagged, tools: Tools, start: str, *, is_bare: bool = False) -> None:
        super().__init__(start, "" if is_bare else family.end)
        self._family = family
        self._shape = shape
        self._tools = tools
        self._is_bare = is_bare
        self._call = pattern_of(shape.call) if shape.call else None
        self._key = pattern_of(shape.key, shape.value)
        self._json_start, self._json_end = shape.json or ("", "")
        self._preamble = ""
        self._state = self._between if self._call else self._unmarked_header
        if self._call and start.startswith(self._call.marker):
            # The call's own tag is the marker: it is read whole.
            self._buffer, self._shown = start, ""
            self._state = self._header

    # Between calls.

    def _between(self) -> bool:
        assert self._call is not None
        at, marker = find_first(self._buffer, _some(self._call.marker, self.end, self.start))
        before = self._preamble + self._buffer[:at]
        limit = len(before) - len(before.lstrip()) + _PREAMBLE_CHARS
        if len(before) > limit:
            self._take(limit - len(self._preamble))
            return self._show()
        self._preamble += self._take(at)
        if marker == self._call.marker:
            self._state = self._header
        elif marker == self.start and marker:
            return self._begin_again()
        elif marker:
            if not self._called:
                return self._no_call()
            self._show_preamble()
            return self._end_region()
        return bool(marker)

    def _begin_again(self) -> bool:
        """Another region begins: this one has no end, or its marker was only spoken of."""
        if not self._called:
            return self._show()
        self._show_preamble()
        return self._leave()

    def _show_preamble(self) -> None:
        """Text inside the region, around its calls."""
        if self._preamble.strip():
            self._events.append(CallText(self._preamble))
        self._preamble = ""

    def _no_call(self) -> bool:
        """The region ended without a call in it."""
        self._take(len(self.end))
        return self._leave() if self._name_alone() else self._show()

    def _name_alone(self) -> bool:
        """A call without arguments may be nothing but a name."""
        name = self._preamble.strip()
        if self._call or not self._tools.offers(name):
            return False
        self._whole(name, {})
        return True

    def _header(self) -> bool:
        assert self._call is not None
        named = self._call.read(self._buffer, 0, is_final=self._final)
        if named is None:
            return False
        if not isinstance(named, Named):
            return self._no_header(self._call.marker)
        if not named.name or (self._is_bare and not self._tools.offers(named.name)):
            self._take(named.end)
            return self._show()
        self._take(named.end)
        return self._begin_call(named.name)

    def _no_header(self, marker: str) -> bool:
        """The marker begins no call. (Where it is the region's, too, it must not come back as what is read next.)"""
        if self._is_bare or self.start.startswith(marker):
            self._take(max(len(marker), len(self.start) if self._buffer.startswith(self.start) else 0))
            return self._show()
        self._preamble += self._take(len(marker))
        self._state = self._between
        return True

    def _unmarked_header(self) -> bool:
        """The name is what stands before the first argument."""
        head = self._buffer[:_PREAMBLE_CHARS]
        at, marker = find_first(head, _some(self._key.marker, self.end, self.start))
        if marker == self._key.marker and head[:at].strip():
            return self._begin_call(self._take(at).strip())
        if marker:
            self._preamble += self._take(at)
            return self._no_call() if marker == self.end != self.start else self._show()
        return self._show() if len(self._buffer) >= _PREAMBLE_CHARS else False

    def _begin_call(self, name: str) -> bool:
        self._show_preamble()
        self._begin(name)
        self._declared = self._tools.of(name)
        self._given: frozenset[str] = frozenset()
        self._count = 0
        self._state = self._inside
        return True

    # Inside a call.

    def _inside(self) -> bool:
        call = self._call.marker if self._call else ""
        markers = _some(self._key.marker, self._json_start, self._shape.call_end, self.end, call, self.start)
        at, marker = find_first(self._buffer, markers)
        self._take(at)
        if not marker:
            return False
        if marker == self._key.marker:
            self._state = self._begin_argument
        elif marker == self._json_start:
            self._take(len(marker))
            self._state = self._json_header
        else:
            self._arguments("}" if self._count else "{}")
            return self._close_call(marker, is_valid=True)
        return True

    def _close_call(self, marker: str, *, is_valid: bool) -> bool:
        """`marker` is next: the call's end, the region's, or the next call's start."""
        if marker in (self._shape.call_end, self.end):
            self._take(len(marker))
        self._ended(is_valid)
        if marker == self.end or not self._call or self._is_bare:
            return self._leave()
        self._state = self._between
        return True

    def _begin_argument(self) -> bool:
        named = self._key.read(self._buffer, 0, is_final=self._final)
        if named is None:
            return False
        self._state = self._inside
        if not isinstance(named, Named):
            self._take(len(self._key.marker))
            return True
        self._take(named.end)
        self._arguments(("{" if not self._count else ", ") + dumps(named.name) + ": ")
        self._count += 1
        self._given |= {named.name}
        self._value = Value(self._kinds(named), self._shape.frame)
        self._value_end = self._shape.value_end
        self._checked, self._is_line_start = 0, True
        self._suspect, self._is_suspect_closed, self._is_suspect_quoted = -1, False, False
        self._quotation = Quotation(self._family, self._shape, is_bare=self._is_bare)
        self._state = self._maybe_cdata if self._shape.cdata else self._read_value
        return True

    def _kinds(self, named: Named) -> Kinds:
        """The types that the value's text may be read as: by the tag where it says so, else by the schema."""
        if named.kind in ("string", "true"):
            return TEXT
        if named.kind:
            return ANY - TEXT
        return readable(self._declared.kinds.get(named.name), self._shape.unsaid)

    def _maybe_cdata(self) -> bool:
        text = self._buffer.lstrip()
        if text.startswith(_CDATA):
            self._take(len(self._buffer) - len(text) + len(_CDATA))
            self._value_end = _CDATA_END
        elif _CDATA.startswith(text) and not self._final:
            return False
        self._state = self._read_value
        return True

    # Inside a value: see the module's text. While an end of the region is suspected, text is kept from there on; with
    # the value's own end marker before it, the suspect is that one.

    def _read_value(self) -> bool:
        at, marker = find_first(self._buffer, self._value_markers(), self._checked)
        if self._suspect < 0:
            self._pass_value(at)
            at = 0
        self._checked = at
        if not marker:
            return False
        verdict = self._judge(marker, at)
        if verdict is None:
            return False
        if verdict:
            return True
        self._checked = at + len(marker)
        return True

    def _value_markers(self) -> tuple[str, ...]:
        if self._value_end == _CDATA_END:
            return (_CDATA_END,)
        quoted = self._quotation.markers
        if self._is_suspect_closed:
            return _some(self._value_end, *quoted)
        if self._suspect >= 0:
            return _some(self._value_end, self._key.marker, *quoted)
        return _some(self._value_end, self._key.marker, self._shape.call_end, self.end, *quoted)

    def _pass_value(self, length: int) -> None:
        text = self._take(length)
        if text:
            self._is_line_start = text.endswith("\n")
            self._arguments(self._value.feed(text))

    def _judge(self, marker: str, at: int) -> bool | None:
        """Whether the value ends at this marker (then it is ended), None when more text must tell."""
        if marker in self._quotation.starts:
            return self._judge_start(marker, at)
        if self._quotation.holds(marker):
            return self._pass_quoted(marker, at)
        if marker == self._value_end:
            return self._judge_end(marker, at)
        if marker == self._key.marker:
            return self._judge_argument(at)
        return self._judge_region_end(marker, at)

    def _judge_start(self, marker: str, at: int) -> bool | None:
        begins = self._quotation.begins(self._buffer, at, marker, is_final=self._final)
        if begins:
            self._quotation.open(marker)
        return None if begins is None else False

    def _pass_quoted(self, marker: str, at: int) -> bool | None:
        """Markup of a quotation. Where a value that quotes nothing would end, this one does if it ends nowhere else."""
        if marker == self._value_end and self._suspect < 0:
            after = at + len(marker)
            closes = self._closes(after)
            if closes is None:
                return None
            if closes:
                self._suspect, self._suspect_end = at, after
                self._is_suspect_closed = self._is_suspect_quoted = True
        self._quotation.take(marker)
        return False

    def _judge_end(self, marker: str, at: int) -> bool | None:
        after = at + len(marker)
        if marker == _CDATA_END:
            after = self._after_space(after)
            end = self._shape.value_end
            if self._buffer.startswith(end, after):
                after += len(end)
            elif self._may_become(after, end):
                return None
        closes = self._closes(after) and self._closes_for_sure(at, after)
        if closes:
            self._end_value(at, after, is_closed=True)
        return closes

    def _closes_for_sure(self, at: int, after: int) -> bool:
        """Of an end marker that counts: whether nothing that may follow takes that back."""
        if self._declared.required <= self._given or self._buffer.startswith(
            self._key.marker, self._after_space(after)
        ):
            return True
        if not self._is_suspect_closed:
            self._suspect, self._suspect_end, self._is_suspect_closed = at, after, True
        return False

    def _judge_argument(self, at: int) -> bool | None:
        before = self._buffer[at - 1] == "\n" if at else self._is_line_start
        if self._shape.frame and not before:
            return False
        begins = self._begins_argument(at, as_written=True)
        if begins:
            self._end_value(at, at, is_closed=False)
        return begins

    def _judge_region_end(self, marker: str, at: int) -> bool | None:
        """The end of the call or of the region stands in the value."""
        after = at + len(marker)
        if marker != self.end and self.end:
            after = self._after_space(after)
            if not self._buffer.startswith(self.end, after):
                return None if self._may_become(after, self.end) else False
            after += len(self.end)
        following = self._after_space(after)
        if self._buffer.startswith(self.start, following):
            return self._cut_value(at, after)
        if self._may_become(following, self.start):
            return None
        self._suspect, self._suspect_end = at, after
        return False

    def _closes(self, at: int) -> bool | None:
        """Whether what follows an end marker makes it the value's end."""
        at = self._after_space(at)
        if self._buffer.startswith(self._key.marker, at):
            return self._begins_argument(at)
        call_end = self._shape.call_end
        if call_end and self._buffer.startswith(call_end, at):
            return not self.end or self._follows(at + len(call_end), (self.end, self._next_call(), self.start))
        return self._follows(at, (self.end, self.start), also=(self._key.marker, call_end))

    def _next_call(self) -> str:
        return self._call.marker if self._call else ""

    def _follows(self, at: int, markers: tuple[str, ...], also: tuple[str, ...] = ()) -> bool | None:
        """Whether one of the markers, or the end of the text, is next; None while it or one of `also` may be."""
        at = self._after_space(at)
        if at == len(self._buffer):
            return True if self._final else None
        if any(marker and self._buffer.startswith(marker, at) for marker in markers):
            return True
        return None if self._may_become(at, *markers, *also) else False

    def _begins_argument(self, at: int, *, as_written: bool = False) -> bool | None:
        named = self._key.read(self._buffer, at, is_final=self._final)
        if named is None or not isinstance(named, Named):
            return named
        if as_written and not self._key.is_as_written(self._buffer, at, named.name):
            return False
        return self._declared.may_begin(named.name, self._given)

    def _may_become(self, at: int, *markers: str) -> bool:
        rest = self._buffer[at:]
        return not self._final and any(marker.startswith(rest) for marker in markers if marker)

    def _after_space(self, at: int) -> int:
        while at < len(self._buffer) and self._buffer[at].isspace():
            at += 1
        return at

    def _end_value(self, at: int, after: int, *, is_closed: bool) -> None:
        """The value is what stands before `at`; the markup goes on at `after`."""
        self._pass_value(at)
        self._take(after - at)
        self._arguments(self._value.end(is_closed=is_closed))
        self._state = self._inside

    def _cut_value(self, at: int, after: int) -> bool:
        """The value's end marker is missing, and the region ends."""
        self._pass_value(at)
        self._take(after - at)
        self._arguments(self._value.end(is_closed=False) + "}" if self._complete else self._value.cut())
        self._ended(self._complete)
        return self._leave()

    # All arguments as one JSON object.

    def _json_header(self) -> bool:
        at = self._buffer.find(">")
        if at < 0:
            return False
        self._take(at + 1)
        self._json = JsonText(watch=self._json_end, again=self._next_call())
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
        at, marker = find_first(self._buffer, (self._json_end, self._shape.call_end, self.end))
        skipped = self._take(at)
        if not self._json.done and marker and not skipped.strip():
            self._arguments(self._json.close())
        elif not self._json.done:
            self._arguments(skipped)
        if marker == self._json_end:
            self._take(len(marker))
        elif marker:
            return self._close_call(marker, is_valid=self._json.done and self._json.is_object)
        return bool(marker)

    # The end of the text.

    def _end_of_text(self) -> None:
        if self._state in (self._between, self._header, self._unmarked_header):
            self._preamble += self._take(len(self._buffer))
            if self._called:
                self._show_preamble()
            elif not (self._complete and self._name_alone()):
                self._show()
        elif self._state in (self._read_value, self._maybe_cdata):
            self._end_inside_value()
        elif self._state in (self._read_json, self._after_json):
            if self._complete and not self._json.done:
                self._arguments(self._json.close())
            self._ended(self._json.done and self._json.is_object)
        else:
            is_closed = self._complete and self._state == self._inside
            if is_closed:
                self._arguments("}" if self._count else "{}")
            self._ended(is_closed)

    def _end_inside_value(self) -> None:
        if self._is_suspect_closed and (self._complete or not self._is_suspect_quoted):
            self._end_value(self._suspect, self._suspect_end, is_closed=True)
            self._go_on()
            if not self.done:
                self._end_of_text()
            return
        if self._suspect >= 0 and not self._is_suspect_quoted:
            self._cut_value(self._suspect, self._suspect_end)
            return
        self._pass_value(len(self._buffer))
        self._arguments(self._value.cut())
        self._ended(False)


def _some(*markers: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(marker for marker in markers if marker))
