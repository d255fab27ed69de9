"""One answer in the harmony format: its messages become reasoning, text and calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shared.events import Event, TokenLogprob
from shared.request import GenerateRequest
from worker.answers.form import AnswerFormat, Beginning
from worker.answers.reasoning import REASONING, TEXT
from worker.answers.stream import AnswerStream
from worker.formats.harmony import Closed, Opened, Said, Step, Turn, call_of
from worker.formats.readers import BodyCall

# Between two messages of the same kind, which reach the client as one block.
_GAP = "\n\n"


class HarmonyStream(AnswerStream):
    """Control tokens are never shown; a message to a tool is a call, when the request has tools and lets the model
    call. `opening` is what the prompt has begun of the message that the answer goes on with, in pieces: text, and
    whether it is a control token."""

    def __init__(
        self,
        form: AnswerFormat,
        request: GenerateRequest,
        beginning: Beginning,
        make_tool_id: Callable[[], str],
        opening: Iterable[tuple[str, bool]] = (),
    ) -> None:
        super().__init__(form, request, beginning, make_tool_id)
        self._offered = [tool.name for tool in request.tools]
        self._gap = ""
        self._turn = Turn(self._is_call)
        self._begin_after(opening)
        self._begun = beginning.continues and self._turn.in_body

    def _begin_after(self, opening: Iterable[tuple[str, bool]]) -> None:
        begun: Opened | None = None
        for text, is_control in opening:
            steps = self._turn.control(text) if is_control else self._turn.text(text)
            begun = next((step for step in reversed(steps) if isinstance(step, Opened)), begun)
        self._turn.go_on()
        self._enter(REASONING if begun is not None and begun.kind == "reasoning" else TEXT)
        if begun is not None and begun.kind == "call" and self._turn.in_body:
            self._open_call(BodyCall(call_of(begun.recipient, self._offered)), "")

    def _is_call(self, recipient: str) -> bool:
        return bool(self._offered) and bool(call_of(recipient, self._offered))

    def control(self, mark: str, logprob: TokenLogprob | None = None) -> list[Event]:
        if not self.is_over:
            self._follow(self._turn.control(mark))
        return self._drain()

    def _is_in_text(self) -> bool:
        return self._turn.in_body and super()._is_in_text()

    def _take(self, text: str) -> None:
        self._follow(self._turn.text(text))

    def _follow(self, steps: list[Step]) -> None:
        for step in steps:
            if self.is_over:
                return
            match step:
                case Opened(kind="call", recipient=recipient):
                    self._enter(TEXT)
                    self._open_call(BodyCall(call_of(recipient, self._offered)), "")
                case Opened(kind=kind):
                    self._open(REASONING if kind == "reasoning" else TEXT)
                case Said(text=text) if self._reader is not None:
                    self._convert(self._reader.feed(text))
                case Said(text=text):
                    self._say(text)
                case Closed(is_complete=is_complete):
                    self._end_call(is_complete=is_complete)

    def _open(self, mode: str) -> None:
        if mode != self._mode:
            self._enter(mode)
            self._gap = ""
        elif self._begun:
            self._flush_stop()
            self._space = ""
            self._gap = _GAP

    def _say(self, text: str) -> None:
        if self._gap:
            text = text.lstrip()
            if not text:
                return
            text, self._gap = self._gap + text, ""
        self._emit(text)

    def _end_call(self, *, is_complete: bool) -> None:
        if self._reader is not None:
            self._convert(self._reader.finish(complete=is_complete))
            self._leave_call(is_cut=not is_complete)
            self._gap = ""

    def _close(self, *, complete: bool) -> None:
        self._follow(self._turn.finish(is_complete=complete))
        super()._close(complete=complete)
