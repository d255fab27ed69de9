"""Which reader reads which family's calls."""

from __future__ import annotations

from collections.abc import Callable

from worker.formats.families import ASKED, FAMILIES, Braces, Family, Headed, Nested, Objects, Python, Tagged
from worker.formats.readers.addressed import AddressedCalls
from worker.formats.readers.braces import BraceCalls
from worker.formats.readers.definitions import Tools
from worker.formats.readers.envelope import FENCE, JsonCalls
from worker.formats.readers.headers import HeadedCalls, MistralCalls, tag_of
from worker.formats.readers.nested import NestedCalls
from worker.formats.readers.pythonic import PythonicCalls
from worker.formats.readers.reader import CallEvent, CallReader, CallText
from worker.formats.readers.tagged import TaggedCalls

# The families whose forms stand between the same markers: models write a neighbour's form sometimes.
_QWEN = FAMILIES["qwen3_coder"]
# In which a model is asked to call whose template has no place for tools, although it may have been trained in another.
_ASKED = {ASKED.start: ASKED.end}
# Before the JSON of a call in the text of a model without markers of its own: Qwen2.5-Coder's fence and list of tools.
_FENCES = {"```json": "```", "```tool_call": "```", "<tools>": "</tools>"}
_MARKED_JSON = {**_ASKED, **_FENCES}
# With which the tokens begin that begin a call in a region.
_HEADS = ("<|tool_call", "<\uff5ctool▁call▁begin")
# Before the call of a model without markers, or of one that leaves them out (Llama 3).
_PYTHON_TAGS = {"<|python_tag|>": "", "<|python_start|>": "<|python_end|>"}


class CallFormat:
    """How one model writes calls. `start` begins a region and `end` ends it (empty: there is no such marker).
    `bare_starts` begin a call whose region marker the model left out; they count at the start of a line, and only with
    the name of an offered tool."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.start, self.end = family.start, family.end
        self.bare_starts = _bare_starts(family)

    @property
    def is_addressed(self) -> bool:
        """Whether every part of an answer says to whom it is."""
        return isinstance(self.family.shape, Headed) and bool(self.family.shape.everyone)

    @property
    def is_prose(self) -> bool:
        """Whether the start may stand in an answer's own words."""
        match self.family.shape:
            case Headed(prose=True) | Objects(fenced=True):
                return True
            case _:
                return False

    def may_begin(self, text: str) -> bool:
        """Whether an answer that begins so (without white space) may be a call without any marker."""
        if self.is_addressed:
            return True
        return text[0] == "{" or (text[0] == "[" and self.start in ("", ASKED.start))

    def markers(self, tools: Tools) -> tuple[str, ...]:
        """With which the markup around calls, and of each, begins."""
        match self.family.shape:
            case Headed(begin="") | Python():
                inner: tuple[str, ...] = tools.spelled
            case Tagged(call=call, call_end=end):
                inner = (call.opening if call else "", end)
            case Headed(begin=begin, end=end):
                inner = (tag_of(begin), tag_of(end), *(["```"] if "```" in end else []))
            case Nested(space=space):
                inner = (space,)
            case Braces():
                inner = ("call:",)
            case _:
                inner = ()
        return tuple(filter(None, (self.start, self.end, *inner)))

    def is_marked(self, marker: str) -> bool:
        """Whether what follows this marker is a call, not perhaps some other JSON."""
        return bool(marker) and marker not in _FENCES and not self.is_plain(marker)

    def is_plain(self, marker: str) -> bool:
        """Whether a marker is itself the beginning of a call's JSON or Python."""
        return marker == "[" or marker.startswith("{")

    def bare_reader(self, marker: str, tools: Tools) -> CallReader:
        """For a call without its region marker: after one of `bare_starts`, or (marker "") for an answer that begins
        as a call may."""
        shape = self.family.shape
        if isinstance(shape, Headed) and self.is_addressed and not marker:
            return AddressedCalls(shape, tools, marker)
        if isinstance(shape, Headed) and marker and marker not in _MARKED_JSON:
            return HeadedCalls(self.family, shape, marker)
        if isinstance(shape, Tagged) and shape.call and marker == shape.call.opening:
            return TaggedCalls(self.family, shape, tools, marker, is_bare=True)
        if isinstance(shape, Nested) and marker and marker not in _MARKED_JSON:
            return _ByFirstText("", lambda _: NestedCalls(self.family, shape, tools, ""), marker)
        if self.is_plain(marker):
            return _ByFirstText("", lambda text: _unmarked(text, "", tools, self.end), marker)
        return _ByFirstText(marker, lambda text: _unmarked(text, marker, tools))

    def reader(self, marker: str, tools: Tools) -> CallReader:
        """For a region, after its start marker."""
        return _ByFirstText(marker, lambda text: self._choose(text, marker, tools))

    def _choose(self, text: str, marker: str, tools: Tools) -> CallReader | None:
        """The first characters say which form a call has. None while they do not."""
        shape, end = self.family.shape, self.end
        if isinstance(shape, Objects | Tagged) and text[0] in "{[":
            return JsonCalls(marker, end, keyed=isinstance(shape, Objects) and shape.keyed)
        if self.start == _QWEN.start and self.family is not _QWEN and isinstance(_QWEN.shape, Tagged):
            assert _QWEN.shape.call is not None
            opening = _QWEN.shape.call.opening
            if text.startswith(opening):
                return TaggedCalls(_QWEN, _QWEN.shape, tools, marker)
            if opening.startswith(text):
                return None
        return own_reader(self.family, text, marker, tools)


def own_reader(family: Family, text: str, marker: str, tools: Tools) -> CallReader:
    """The reader of the family's own form for a region that begins with `text`, white space aside."""
    match family.shape:
        case Tagged() as shape:
            return TaggedCalls(family, shape, tools, marker)
        case Headed(everyone=everyone) as shape if everyone:
            return AddressedCalls(shape, tools, marker)
        case Headed(listed=True, begin=""):
            return MistralCalls(marker, family.end)
        case Headed(listed=True) if text[0] in "{[":
            return JsonCalls(marker, family.end)
        case Headed() as shape:
            return HeadedCalls(family, shape, marker)
        case Braces(quote=quote, bare=bare):
            return BraceCalls(marker, family.end, quote=quote, bare_text=bare)
        case Python(lines=lines):
            return PythonicCalls(marker, family.end, lines=lines)
        case Nested() as shape:
            return NestedCalls(family, shape, tools, marker)
        case Objects(keyed=keyed, fenced=fenced):
            return JsonCalls(marker, FENCE if fenced else family.end, keyed=keyed, fenced=fenced)


def _unmarked(text: str, marker: str, tools: Tools, end: str = "") -> CallReader | None:
    """Text that may be a call although no marker says so. `end` may follow."""
    if marker in _MARKED_JSON:
        return JsonCalls(marker, _MARKED_JSON[marker], only=tools.names)
    end = _PYTHON_TAGS.get(marker, end)
    listed = text[1:].lstrip() if text[0] == "[" else text
    if not listed:
        return None
    if listed[0] in "{[":
        return JsonCalls(marker, end, only=tools.names)
    return PythonicCalls(marker, end, only=tools.names, lines=True)


def _bare_starts(family: Family) -> tuple[str, ...]:
    asked = () if family.start == ASKED.start else (ASKED.start,)
    return (*_own_bare_starts(family), *asked)


def _own_bare_starts(family: Family) -> tuple[str, ...]:
    match family.shape:
        case Tagged(call=call) if call and not call.before.startswith(family.start):
            return (call.opening,)
        case Headed(begin=begin) if begin.startswith(_HEADS):
            return (tag_of(begin),)
        case Nested(space=space):
            return (f"{space}<invoke",)
        case Objects(name=name) if family.start in ("", ASKED.start):
            return (*_PYTHON_TAGS, *_FENCES, f'{{"{name}"', f'{{ "{name}"')
        case Python() if not family.start:
            return (*_PYTHON_TAGS, *_FENCES, "[")
        case _:
            return ()


class _ByFirstText:
    """Looks at the first characters after the marker, then hands everything to the reader they call for. `given` is a
    marker that belongs to what that one reads; where it takes nothing of it, it is text."""

    def __init__(self, start: str, choose: Callable[[str], CallReader | None], given: str = "") -> None:
        self._start = start
        self._choose = choose
        self._given = given
        self._buffer = given
        self._fed_chars = 0
        self._reader: CallReader | None = None

    @property
    def done(self) -> bool:
        return self._reader is not None and self._reader.done

    @property
    def rest(self) -> str:
        if self._reader is None:
            return ""
        return self._reader.rest[len(self._given) if self._is_refused else 0 :]

    @property
    def _is_refused(self) -> bool:
        """Whether nothing was read."""
        return self._reader is not None and self._reader.done and len(self._reader.rest) == self._fed_chars

    def feed(self, text: str) -> list[CallEvent]:
        if self._reader is None:
            self._buffer += text
            first = self._buffer.lstrip()
            self._reader = self._choose(first) if first else None
            if self._reader is None:
                return []
            text, self._buffer = self._buffer, ""
        self._fed_chars += len(text)
        return self._with_given(self._reader.feed(text))

    def _with_given(self, events: list[CallEvent]) -> list[CallEvent]:
        return [CallText(self._given), *events] if self._given and self._is_refused else events

    def finish(self, *, complete: bool) -> list[CallEvent]:
        events: list[CallEvent] = []
        if self._reader is None:
            self._reader = JsonCalls(self._start, "")
            self._fed_chars = len(self._buffer)
            events = self._reader.feed(self._buffer)
        return self._with_given(events + self._reader.finish(complete=complete))
