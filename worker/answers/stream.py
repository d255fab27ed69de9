"""One answer of any engine: generated text in, events out. Streaming and whole answers are the same because there is
only this.

Rules that make the events independent of how the text is cut, and a replayed answer render as it was:

- Blank lines at the start of a text block, and whitespace at its end before reasoning or a tool call, are markup and
  are dropped; the indentation of its first line, and whitespace at the end of the answer, are kept. Whitespace around
  reasoning is dropped.
- Reasoning opens at the start of a line only, so that prose may mention its marker. A tool call inside reasoning ends
  the reasoning; its end marker, when it comes yet, is dropped. Words that open it, and the marker of a model that was
  not seen to have any, do so only where the answer begins with them.
- The end of reasoning or of a call that nothing has begun is dropped where it stands as markup does
  (`worker.answers.strays`); what was said before it stays text, for it has been sent.
- Markers around the answer are dropped: the first where its text begins, the last where nothing of it follows; those
  between its parts, where no part has begun.
- Stop sequences are looked for in visible text; not in reasoning, not in tool calls. The text never contains one.
- With no tools the markup of a call is text. With `tool_choice` none (the tools stay in the prompt all the same, so
  that its prefix stays) a call is cut from the answer.
- What looked like a call and is none comes back, its marker as text and what stood behind it to be read again
  (`worker.answers.given_back`); where generation is cut, a call that has no name yet and a marker that is not whole are
  dropped (`worker.answers.cuts`).
- Where the client wants one call at most, the answer ends with the first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from shared.events import (
    Event,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from shared.request import GenerateRequest
from worker.answers.cuts import begins_markup, is_call_begun, is_marker_begun, names_tool
from worker.answers.form import AnswerFormat, Beginning, EndReason, Whole
from worker.answers.given_back import read_again
from worker.answers.reasoning import (
    BARE_TOOL,
    BEHIND,
    BETWEEN,
    HEADER,
    REASONING,
    STRAY,
    TEXT,
    TOOL,
    UNWRAP,
    WRAP,
    Markers,
    Mode,
)
from worker.answers.strays import is_fenced, is_phrase, is_stray, may_be_stray
from worker.formats.readers import (
    CallBegun,
    CallDelta,
    CallEnded,
    CallEvent,
    CallReader,
    CallText,
    Tools,
)


class AnswerStream:
    """Not thread-safe; one per answer. Emits text, reasoning and tool call events only. Whatever engine generates feeds
    it text in pieces, and control tokens by their text where it can tell them from text that only spells one."""

    def __init__(
        self, form: AnswerFormat, request: GenerateRequest, beginning: Beginning, make_tool_id: Callable[[], str]
    ) -> None:
        self._format = form
        self._make_tool_id = make_tool_id
        self._request = request
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._arguments: list[tuple[str, list[str]]] = []
        has_tools = bool(request.tools)
        self._is_mute = has_tools and request.tool_choice.mode == "none"  # calls are not shown
        self._modes = form.modes(calls=has_tools)
        self._is_addressed = form.calls.is_addressed  # and so is the answer's beginning
        self._reads_plain = has_tools and request.response_schema is None
        self._may_be_bare = self._reads_plain or self._is_addressed
        stop = tuple(sequence for sequence in request.sampling.stop if sequence)
        self._stop = Markers((sequence, STRAY) for sequence in stop) if stop else None
        self._mode = REASONING if beginning.in_reasoning else form.markup.initial
        self._markers = self._modes[self._mode]
        self._reader: CallReader | None = None
        self._call_marker = ""  # that it follows
        self._held = ""  # may become a marker
        self._stop_held = ""  # may become a stop sequence
        self._lead = ""  # whitespace before the block begins
        self._space = ""  # whitespace that may turn out to end its block
        self._stray = ""  # an end that nothing has begun, and blanks behind it
        self._may_wrap = form.markup.wraps_always
        self._is_wrapped = self._may_wrap and beginning.continues  # its end marker may come
        self._tail = ""  # that marker, and whitespace behind it
        self._begun = beginning.continues  # whether the block has anything but whitespace
        self._has_open_reasoning = False  # a call came before its end
        self._header = ""
        self._calls = 0
        self._calls_before_region = 0
        self._is_single = not request.tool_choice.parallel
        self._has_only_call = False
        self._is_cut = False  # more was generated than was said
        self._logprobs: list[TokenLogprob] = []
        self._events: list[Event] = []
        self.stopped: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether the answer has ended although the model might go on."""
        return self.stopped is not None or self._has_only_call

    @property
    def is_reasoning(self) -> bool:
        """Whether the answer is inside reasoning at the moment."""
        return self._mode == REASONING and self._reader is None

    @property
    def holds_logprobs(self) -> bool:
        """Whether logprobs wait for the text that they belong to."""
        return bool(self._logprobs)

    def text(self, text: str, logprob: TokenLogprob | None = None) -> list[Event]:
        """Events that this text makes certain; once the answer is over, none. `logprob` is the token's that it came
        with: a token that completes no character has one too."""
        if self.is_over:
            return []
        if logprob is not None and self._is_in_text():
            self._logprobs.append(logprob)
        if text:
            self._take(text)
        return self._drain()

    def control(self, mark: str, logprob: TokenLogprob | None = None) -> list[Event]:
        """A control token, by its text."""
        return self.text(mark, logprob)

    def finish(self, reason: EndReason) -> tuple[list[Event], FinishReason, str]:
        """The last events, why the answer ended, and the stop sequence if one matched."""
        if not self.is_over:
            self._close(complete=reason == "stop")
        events = self._drain()
        if self.stopped is not None:
            return events, "stop_sequence", self.stopped
        if self._calls and (reason == "stop" or self._has_only_call):
            return events, "tool_calls", ""
        return events, reason, ""

    @property
    def whole(self) -> Whole | None:
        """What was said, once finished; None when more was generated: that answer cannot be put back."""
        if self.stopped is not None or self._is_cut:
            return None
        calls = tuple((name, "".join(pieces)) for name, pieces in self._arguments)
        return Whole("".join(self._text), calls, "".join(self._reasoning))

    def _is_in_text(self) -> bool:
        return self._mode == TEXT and self._reader is None

    def _drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # From text to blocks and calls.

    def _take(self, text: str) -> None:
        while text and not self.is_over:
            if self._reader is not None:
                text = self._read_call(self._reader, text)
            elif self._may_be_bare_call(text):
                text, self._held = self._held + text, ""
                self._may_be_bare = self._may_be_bare and not self._is_addressed
                self._open_call(self._format.calls.bare_reader("", self._tools), "")
            elif not self._held and self._markers.cannot_match(text):
                self._emit(text)
                return
            else:
                text = self._take_marked(text)

    def _may_be_bare_call(self, text: str) -> bool:
        """Whether an answer begins here with what may be a call without any marker."""
        if not self._may_be_bare or self._begun or self._mode != TEXT:
            return False
        begun = (self._held + text).lstrip()
        if not begun or not self._format.calls.may_begin(begun):
            return False
        return not any(mark.startswith(begun) or begun.startswith(mark) for mark in self._markers.targets)

    def _take_marked(self, text: str) -> str:
        markers = self._markers  # (which change with the text before the marker)
        found = markers.find(self._held + text)
        self._held = ""
        if found.text:
            self._emit(found.text)
            if self.stopped is not None:
                return ""
        if found.marker:
            self._cross(found.marker, markers.targets[found.marker])
            return found.rest
        self._held = found.rest
        return ""

    def _cross(self, marker: str, target: Mode) -> None:
        if target == TOOL:
            self._open_call(self._format.calls.reader(marker, self._tools), marker)
        elif target == BARE_TOOL and self._may_call(marker):
            self._open_call(self._format.calls.bare_reader(marker, self._tools), marker)
        elif target in (STRAY, UNWRAP) and not self._begun:
            pass  # the end of a block that was ended already or is empty, or the start of one that is open
        elif marker == self._format.markup.think_end and self._has_open_reasoning and self._mode == TEXT:
            self._has_open_reasoning = False
        elif target == BETWEEN and (not self._begun or self._tail):
            self._end_block()
            self._may_wrap = self._is_wrapped = True
        elif target == WRAP and self._may_wrap and not self._begun:
            self._is_wrapped = True
            self._logprobs.clear()
        elif target == UNWRAP and self._is_wrapped and not self._tail:
            self._tail = marker
        elif target in (STRAY, UNWRAP) and self._may_be_stray(marker):
            self._stray = marker
        elif target in (STRAY, BARE_TOOL, WRAP, UNWRAP, BETWEEN) or (target == REASONING and not self._may_reason()):
            self._emit(marker)
        else:
            self._enter(target)

    def _may_call(self, marker: str) -> bool:
        """Whether a call without its region begins here; one in mere JSON or Python does not in a code fence."""
        if self._mode == HEADER:
            return True
        if not self._at_line_start():
            return False
        return not self._format.calls.is_plain(marker) or (self._reads_plain and not is_fenced(self._said()))

    def _may_be_stray(self, marker: str) -> bool:
        markup, calls = self._format.markup, self._format.calls
        starts = {markup.think_end: markup.think_start, markup.answer_end: markup.answer_start, calls.end: calls.start}
        if self._mode != TEXT or self._stray or self._tail or is_phrase(marker):
            return False
        return may_be_stray(self._said(), marker, starts.get(marker, ""))

    def _said(self) -> str:
        return "".join(self._text) + self._space + self._stop_held

    def _may_reason(self) -> bool:
        if self._mode != TEXT:
            return True
        if self._format.markup.is_phrase:
            return not self._begun and not self._has_said
        return self._at_line_start()

    def _at_line_start(self) -> bool:
        return not self._begun or bool(self._tail) or "\n" in self._space or self._stop_held.endswith("\n")

    def _enter(self, mode: str) -> None:
        if mode != self._mode:
            self._end_block()
        if (self._mode, mode) == (REASONING, TEXT):
            self._may_wrap = True
            self._is_wrapped = self._is_wrapped or not self._format.markup.answer_start
        self._mode = mode
        self._markers = self._modes[mode]

    def _end_block(self) -> None:
        self._flush_stop()
        self._logprobs.clear()
        self._lead = self._space = self._tail = self._stray = ""
        self._begun = False

    def _emit(self, text: str) -> None:
        if self._mode == HEADER:
            self._header += text
            return
        if self._tail or self._stray:
            text = self._behind_tail(text) if self._tail else self._behind_stray(text)
            if not text:
                return
        if not self._begun:
            text = self._begin(text)
            if not text:
                return
        if self._stop is not None and self._mode == TEXT:
            self._emit_until_stop(self._stop, text)
        else:
            self._emit_trimmed(text)

    def _behind_tail(self, text: str) -> str:
        """With more than whitespace behind it, the end marker was text."""
        self._tail += text
        if text.isspace():
            return ""
        text, self._tail = self._tail, ""
        return text

    def _behind_stray(self, text: str) -> str:
        marker, self._stray = self._stray, ""
        behind = marker[len(marker.rstrip()) :] + text
        stray = is_stray(behind)
        if stray is None:
            self._stray = marker + text
            return ""
        return behind.lstrip(" \t") if stray else marker + text

    def _begin(self, text: str) -> str:
        """The block's first text, from its first line on that is not blank; empty before there is one."""
        lead = self._lead + text
        body = lead.lstrip()
        self._lead = lead[: len(lead) - len(body)]
        if not body:
            return ""
        self._begun = True
        self._markers = self._modes[self._mode]
        if self._mode == REASONING or ("\n" not in self._lead and self._has_said):
            return body
        return self._lead.rpartition("\n")[2] + body

    @property
    def _has_said(self) -> bool:
        return bool(self._text or self._reasoning or self._calls)

    def _emit_until_stop(self, stop: Markers, text: str) -> None:
        if not self._stop_held and stop.cannot_match(text):
            self._emit_trimmed(text)
            return
        found = stop.find(self._stop_held + text)
        self._stop_held = ""
        if found.text:
            self._emit_trimmed(found.text)
        if found.marker:
            self._emit_space()
            self.stopped = found.marker
        else:
            self._stop_held = found.rest

    def _flush_stop(self) -> None:
        held, self._stop_held = self._stop_held, ""
        if held:
            self._emit_trimmed(held)

    def _emit_trimmed(self, text: str) -> None:
        """Whitespace at the end waits: what follows decides whether it is shown."""
        if self._space:
            text = self._space + text
            self._space = ""
        if text[-1].isspace():
            shown = text.rstrip()
            self._space = text[len(shown) :]
            text = shown
            if not text:
                return
        self._emit_exactly(text)

    def _emit_space(self) -> None:
        space, self._space = self._space, ""
        if space and self._mode == TEXT:
            self._emit_exactly(space)

    def _emit_exactly(self, text: str) -> None:
        if self._mode == REASONING:
            self._reasoning.append(text)
            self._events.append(ReasoningDelta(text=text))
            return
        self._text.append(text)
        if self._logprobs:
            self._events.append(TextDelta(text=text, logprobs=tuple(self._logprobs)))
            self._logprobs.clear()
        else:
            self._events.append(TextDelta(text=text))

    # Tool calls.

    @functools.cached_property
    def _tools(self) -> Tools:
        return Tools(self._request.tools)

    def _open_call(self, reader: CallReader, marker: str) -> None:
        self._reader = reader
        self._call_marker = marker
        self._calls_before_region = self._calls

    def _read_call(self, reader: CallReader, text: str) -> str:
        events = reader.feed(text)
        if not reader.done:
            self._convert(events)
            return ""
        events, rest = read_again(events, self._call_marker, reader.rest)
        self._convert(events)
        self._leave_call()
        self._is_cut = self._is_cut or (self._has_only_call and bool(rest.strip()))
        return rest

    def _leave_call(self, *, is_cut: bool = False) -> None:
        """Text follows a call, also one inside reasoning. What was no call changed nothing, and one that generation was
        cut in does not end the answer."""
        self._reader = None
        if self._calls > self._calls_before_region:
            self._has_open_reasoning = self._has_open_reasoning or self._mode == REASONING
            self._mode = TEXT
            self._markers = self._modes[BEHIND]
            self._has_only_call = self._is_single and not is_cut

    def _convert(self, events: list[CallEvent]) -> None:
        for event in events:
            if self.stopped is not None:  # by text before a call: nothing is said behind it
                return
            match event:
                case CallBegun() | CallDelta() | CallEnded() if self._is_mute:
                    self._is_cut = True
                case CallDelta(arguments=arguments):
                    self._arguments[-1][1].append(arguments)
                    self._events.append(ToolCallDelta(index=self._calls - 1, arguments=arguments))
                case CallBegun() if self._is_single and self._calls:
                    self._has_only_call = self._is_cut = True
                    return
                case CallBegun(name=name):
                    # Never the model's own id: models repeat theirs, and a client loses one of two calls of one id.
                    self._end_block()
                    name = self._tool_name(name)
                    self._arguments.append((name, []))
                    self._events.append(ToolCallStarted(index=self._calls, id=self._make_tool_id(), name=name))
                    self._calls += 1
                case CallEnded(is_valid=is_valid):
                    self._events.append(ToolCallFinished(index=self._calls - 1, is_valid=is_valid))
                case _:
                    self._emit(event.text)

    def _tool_name(self, name: str) -> str:
        names = [tool.name for tool in self._request.tools]
        if name in names:
            return name
        alike = [known for known in names if known.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else name

    # The end.

    def _close(self, *, complete: bool) -> None:
        while not self.is_over and self._reader is not None:
            reader = self._reader
            events, rest = reader.finish(complete=complete), reader.rest
            if not complete:
                events, rest = self._without_begun_call(events, rest)
            events, rest = read_again(events, self._call_marker, rest)
            self._convert(events)
            self._leave_call(is_cut=not complete)
            self._take(rest)
        if not self.is_over and self._held:
            held, self._held = self._held, ""
            if not complete and is_marker_begun(held):
                self._drop()
            else:
                self._emit(held)
        if self._mode == HEADER and self._header.strip() and not self._calls and not self._begun:
            # A model that keeps to no format at all: nothing was shown, so show what it said.
            self._enter(TEXT)
            self._emit(self._header)
        if not self.is_over:
            self._flush_stop()
            if self._tail:
                self._end_block()
            self._emit_space()
            self._emit_logprobs()

    def _without_begun_call(self, events: list[CallEvent], rest: str) -> tuple[list[CallEvent], str]:
        """A reader's last events and what follows them, without a call that has no name yet."""
        text = "".join(event.text for event in events if isinstance(event, CallText))
        if not self._is_call_begun(text, rest):
            return events, rest
        self._convert([event for event in events if not isinstance(event, CallText)])
        self._drop()
        return [], ""

    def _is_call_begun(self, text: str, rest: str) -> bool:
        marker, form = self._call_marker, self._format.calls
        if not text:
            return begins_markup(rest, form.markers(self._tools))
        if form.is_marked(marker):
            ends_reasoning = self._mode == REASONING and self._format.markup.think_end in text + rest
            return not ends_reasoning and is_call_begun(text + rest, marker)
        begun = (text + rest).removeprefix("" if form.is_plain(marker) else marker)
        return names_tool(begun, self._tools.names, is_own=not form.start)

    def _drop(self) -> None:
        """The answer was cut in markup: what stands before it ends as before a call."""
        self._is_cut = True
        self._end_block()

    def _emit_logprobs(self) -> None:
        """Those of tokens at the end that made no text: parts of a character that never became whole."""
        if self._logprobs:
            self._events.append(TextDelta(text="", logprobs=tuple(self._logprobs)))
            self._logprobs.clear()
