"""From a server's pieces to our events: pure.

Text is read as any model's is, so that reasoning and calls are found which the server left in it; what the server
reads itself is taken from it. Stop sequences are looked for here: no server says which one it met.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace

from shared.errors import PromptTooLongError, WorkerLostError
from shared.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
)
from shared.request import GenerateRequest
from worker.answers.form import AnswerFormat, Beginning, EndReason, call_ids
from worker.answers.reasoning import Markup
from worker.answers.stream import AnswerStream
from worker.engines.remote.pieces import CallPiece, Piece, Reported
from worker.formats.families import ASKED
from worker.formats.readers import CallFormat

_MOST_CHARACTERS = 16 * 1024 * 1024  # of an answer: more than any window holds
_FORM = AnswerFormat(Markup(think_start="<think>", think_end="</think>"), CallFormat(ASKED))
_FINISHES: dict[str, EndReason] = {
    "stop": "stop",
    "eos": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "max_tokens": "length",
}


@dataclass(slots=True)
class _Open:
    """A call that the server is telling: its number and name there, and its arguments so far."""

    number: int
    id: str
    index: int
    arguments: list[str] = field(default_factory=list)

    def goes_on(self, piece: CallPiece) -> bool:
        """Some servers give all calls one number: another id, or a name behind whole arguments, is another call."""
        if piece.index != self.number:
            return False
        if piece.id and self.id and piece.name:
            return piece.id == self.id
        return not (piece.name and _is_object("".join(self.arguments)))


class RemoteAnswer:
    """One answer. Not thread-safe. `prompt_is_full` says that the prompt takes about all of the window, so that an
    answer without anything in it means that it took more."""

    def __init__(self, request: GenerateRequest, *, prompt_is_full: bool = False) -> None:
        self._request = request
        self._prompt_is_full = prompt_is_full
        self._ids = call_ids(request.id)
        self._stream = AnswerStream(_FORM, request, Beginning(), self._ids.__next__)
        self._open: _Open | None = None
        self._calls = 0
        self._characters = 0
        self._said = self._thought = False
        self._finish = ""
        self._reported = Reported()
        self.is_started = self.is_over = False

    def feed(self, piece: Piece) -> list[Event]:
        """The events that the piece makes certain. Raises `WorkerLostError` for an answer that cannot be one."""
        self._characters += len(piece.text) + len(piece.reasoning) + sum(len(call.arguments) for call in piece.calls)
        if self._characters > _MOST_CHARACTERS:
            raise WorkerLostError("the server's answer has no end")
        events: list[Event] = [] if self.is_started else [Started(usage=self.usage())]
        self.is_started = True
        if piece.reported is not None:
            self._reported = _together(self._reported, piece.reported)
        if piece.reasoning:
            events += self._reason(piece.reasoning)
        if piece.text or piece.logprobs:
            events += self._say(piece)
        for call in piece.calls:
            events += self._call(call)
        self._finish = piece.finish or self._finish
        if self._stream.is_over:
            events += self.end()
        return events

    def _reason(self, text: str) -> list[Event]:
        self._thought = True
        return [*self._close_call(), ReasoningDelta(text=text)]

    def _say(self, piece: Piece) -> list[Event]:
        self._said = self._said or bool(piece.text)
        events = self._close_call() if piece.text else []
        for logprob in piece.logprobs[:-1]:
            events += self._read(self._stream.text("", logprob))
        return events + self._read(self._stream.text(piece.text, piece.logprobs[-1] if piece.logprobs else None))

    def _read(self, events: list[Event]) -> list[Event]:
        """Calls that were read in the text are numbered with those that the server has read."""
        self._calls += sum(isinstance(event, ToolCallStarted) for event in events)
        return events

    def _call(self, piece: CallPiece) -> list[Event]:
        events: list[Event] = []
        if self._open is None or not self._open.goes_on(piece):
            if not piece.name and not piece.arguments:
                return events
            events += self._close_call()
            if not piece.name:
                raise WorkerLostError("the server tells arguments of a call that it has not named, or that has ended")
            self._open = _Open(piece.index, piece.id, self._calls)
            self._calls += 1
            events.append(ToolCallStarted(index=self._open.index, id=next(self._ids), name=piece.name))
        if piece.arguments:
            self._open.arguments.append(piece.arguments)
            events.append(ToolCallDelta(index=self._open.index, arguments=piece.arguments))
        return events

    def _close_call(self) -> list[Event]:
        call, self._open = self._open, None
        if call is None:
            return []
        events: list[Event] = []
        if not call.arguments:
            call.arguments.append("{}")
            events.append(ToolCallDelta(index=call.index, arguments="{}"))
        return [*events, ToolCallFinished(index=call.index, is_valid=_is_object("".join(call.arguments)))]

    def end(self) -> list[Event]:
        """The last events. Raises `PromptTooLongError` and `WorkerLostError` for what is no end."""
        if self.is_over:
            return []
        has_something = self._said or self._thought or self._calls > 0
        if not has_something and self._prompt_is_full:
            raise PromptTooLongError("prompt is too long: the server answered it with nothing")
        if not self._finish and not self._stream.is_over:
            raise WorkerLostError("the server's stream ended without saying why")
        self.is_over = True
        closing = self._close_call()
        rest, reason, stop = self._stream.finish(_FINISHES.get(self._finish, "stop"))
        return [
            *closing,
            *self._read(rest),
            Finished(reason=self._reason_of(reason), usage=self.usage(), stop_sequence=stop),
        ]

    def _reason_of(self, reason: FinishReason) -> FinishReason:
        if self._finish == "content_filter":
            return "content_filter"
        return "tool_calls" if reason == "stop" and self._calls else reason

    def usage(self) -> Usage:
        """As reported, but for counts that cannot be: those are unknown."""
        reported = self._reported
        lies_out = reported.output_tokens == 0 and (self._said or self._thought or self._calls)
        lies_in = reported.input_tokens == 0 or (reported.cached_tokens or 0) > (reported.input_tokens or 0)
        return Usage(
            input_tokens=None if lies_in else reported.input_tokens,
            cached_tokens=None if lies_in else reported.cached_tokens,
            output_tokens=None if lies_out else reported.output_tokens,
            reasoning_tokens=reported.reasoning_tokens,
        )


def _together(before: Reported, new: Reported) -> Reported:
    """What is told later counts; a server may tell of the prompt first and of the answer last."""
    told = {each.name: value for each in fields(new) if (value := getattr(new, each.name)) is not None}
    return replace(before, **told)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
