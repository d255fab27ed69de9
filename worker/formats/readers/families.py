"""Which reader reads which family's calls."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

from worker.formats.readers.braces import BraceCalls
from worker.formats.readers.envelope import JsonCalls
from worker.formats.readers.grammars import GRAMMARS
from worker.formats.readers.headers import KimiK2Calls, MistralCalls
from worker.formats.readers.pythonic import PythonicCalls
from worker.formats.readers.reader import CallEvent, CallReader
from worker.formats.readers.region import Parse, Region, Tools
from worker.formats.readers.tagged import Grammar, TaggedCalls
from worker.formats.readers.values import UNREADABLE

_QWEN = "<function="
_GLM = ("glm47", "laguna")


def family_of(parse: Parse) -> str:
    """The family of a parser of mlx-lm: the name of its module."""
    return parse.__module__.rpartition(".")[2]


class CallFormat:
    """How one model writes calls. `start` begins a region and `end` ends it. `bare_starts` begin a call whose region
    marker the model left out; they count at the start of a line, and only with the name of an offered tool."""

    def __init__(self, family: str, bare_starts: tuple[str, ...] = ()) -> None:
        module: Any = importlib.import_module(f"mlx_lm.tool_parsers.{family}")
        self.family = family
        self.start: str = module.tool_call_start
        self.end: str = module.tool_call_end
        self.bare_starts = bare_starts
        self._parse = module.parse_tool_call
        self._grammar: Grammar | None = GRAMMARS[family](self._parse) if family in GRAMMARS else None
        self._qwen: Grammar | None = None
        if self.start == "<tool_call>":
            qwen: Any = importlib.import_module("mlx_lm.tool_parsers.qwen3_coder")
            self._qwen = GRAMMARS["qwen3_coder"](qwen.parse_tool_call)
        if family in ("qwen3_coder", "minimax_m2", "muse_spark", "kimi_k3") and self._grammar is not None:
            self.bare_starts = (self._grammar.call,)
        elif family == "kimi_k2":
            self.bare_starts = ("<|tool_call_begin|>",)

    def bare_reader(self, marker: str, tools: Tools) -> CallReader:
        """For a call without its region marker: after one of `bare_starts`, or (marker "") for text that begins
        with a brace and may be a call's JSON."""
        if self.family == "kimi_k2" and marker:
            return KimiK2Calls(marker, self.end)
        only = frozenset(entry["function"]["name"].casefold() for entry in tools)
        if not marker or self._grammar is None:
            return JsonCalls(marker, "", only=only)
        return TaggedCalls(marker, self._grammar.call_end, self._grammar, tools, only=only)

    def reader(self, marker: str, tools: Tools) -> CallReader:
        """`tools` are the definitions that the arguments' types are looked up in."""
        match self.family:
            case "kimi_k2":
                return KimiK2Calls(marker, self.end)
            case "mistral":
                return MistralCalls(marker, self.end)
            case "pythonic":
                return PythonicCalls(marker, self.end)
            case "gemma4":
                return BraceCalls(marker, self.end, quote='<|"|>', bare_text=False)
            case "function_gemma":
                return BraceCalls(marker, self.end, quote="<escape>", bare_text=True)
            case "json_tools" | "glm47" | "laguna" | "longcat" | "qwen3_coder":
                return _ByFirstText(marker, self.end, lambda text: self._choose(text, marker, tools))
            case _:
                assert self._grammar is not None
                return TaggedCalls(marker, self.end, self._grammar, tools)

    def _choose(self, text: str, marker: str, tools: Tools) -> CallReader | None:
        """Models of these families sometimes write a neighbour's form inside the same marker; its first characters
        say which. None while they do not."""
        if text[0] in "{[":
            if self.family in _GLM:
                return _WholeCalls(marker, self.end, self._parse, tools)
            return JsonCalls(marker, self.end)
        if self._qwen is not None and self.family != "qwen3_coder":
            if text.startswith(_QWEN):
                return TaggedCalls(marker, self.end, self._qwen, tools)
            if _QWEN.startswith(text):
                return None
        return (
            JsonCalls(marker, self.end)
            if self._grammar is None
            else TaggedCalls(marker, self.end, self._grammar, tools)
        )


class _ByFirstText:
    """Looks at the first characters after the marker, then hands everything to the reader they call for."""

    def __init__(self, start: str, end: str, choose: Callable[[str], CallReader | None]) -> None:
        self._start, self._end = start, end
        self._choose = choose
        self._buffer = ""
        self._reader: CallReader | None = None

    @property
    def done(self) -> bool:
        return self._reader is not None and self._reader.done

    @property
    def rest(self) -> str:
        return "" if self._reader is None else self._reader.rest

    def feed(self, text: str) -> list[CallEvent]:
        if self._reader is None:
            self._buffer += text
            first = self._buffer.lstrip()
            self._reader = self._choose(first) if first else None
            if self._reader is None:
                return []
            text, self._buffer = self._buffer, ""
        return self._reader.feed(text)

    def finish(self, *, complete: bool) -> list[CallEvent]:
        events: list[CallEvent] = []
        if self._reader is None:
            self._reader = JsonCalls(self._start, self._end)
            events = self._reader.feed(self._buffer)
        return events + self._reader.finish(complete=complete)


class _WholeCalls(Region):
    """GLM's parser reads JSON too and then converts arguments by their schema: only when the region is whole. What
    it cannot read is read as JSON that may need repair."""

    def __init__(self, start: str, end: str, parse: Parse, tools: Tools) -> None:
        super().__init__(start, end)
        self._parse, self._tools = parse, tools
        self._text = ""
        self._state = self._gather

    def _gather(self) -> bool:
        at = self._buffer.find(self.end)
        if at < 0:
            return False
        self._text = self._buffer[: at + len(self.end)]
        self._buffer = self._buffer[at + len(self.end) :]
        return self._read()

    def _read(self) -> bool:
        call = self._parsed(self._text.removesuffix(self.end))
        if call is not None:
            self._whole(call["name"], call["arguments"])
            return self._leave()
        reader = JsonCalls(self.start, self.end)
        self._events += reader.feed(self._text)
        self._events += reader.finish(complete=self._complete)
        self._buffer = reader.rest + self._buffer
        return self._leave()

    def _parsed(self, text: str) -> dict[str, Any] | None:
        try:
            json.loads(text)
            call = self._parse(text, self._tools)
        except UNREADABLE:
            return None
        return call if isinstance(call, dict) and call.get("name") != "unknown" else None

    def _end_of_text(self) -> None:
        self._text, self._buffer = self._buffer, ""
        self._read()
