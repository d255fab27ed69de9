"""One answer in the harmony format: its messages become reasoning, text and calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.events import TokenLogprob
from shared.request import GenerateRequest
from worker.answers.reasoning import REASONING, TEXT
from worker.engines.mlx.output import OutputStream, output_format
from worker.formats.harmony import START, Closed, Opened, Said, Step, Turn, call_of
from worker.formats.readers import BodyCall
from worker.prompt import Prompt

# Between two messages of the same kind, which reach the client as one block.
_GAP = "\n\n"


def open_stream(
    tokenizer: Any, request: GenerateRequest, prompt: Prompt, make_tool_id: Callable[[], str]
) -> OutputStream:
    """The stream for an answer of this model."""
    kind = HarmonyStream if output_format(tokenizer).harmony_tokens else OutputStream
    return kind(tokenizer, request, prompt, make_tool_id)


class HarmonyStream(OutputStream):
    """Control tokens are known by their ids and never shown; a message to a tool is a call, when the request has
    tools and lets the model call."""

    def __init__(
        self, tokenizer: Any, request: GenerateRequest, prompt: Prompt, make_tool_id: Callable[[], str]
    ) -> None:
        super().__init__(tokenizer, request, prompt, make_tool_id)
        self._control = self._format.harmony_tokens
        self._offered = [tool.name for tool in request.tools] if request.tool_choice.mode != "none" else []
        self._gap = ""
        self._turn = Turn(self._is_call)
        self._begin_after(prompt)

    def _begin_after(self, prompt: Prompt) -> None:
        """The answer goes on in the message that the prompt has begun."""
        start = next((id_ for id_, text in self._control.items() if text == START), None)
        tokens = prompt.tokens
        at = next((i for i in range(len(tokens) - 1, -1, -1) if tokens[i] == start), len(tokens))
        begun = TEXT
        detokenizer = self._format.texts.new_detokenizer()
        for token in tokens[at:]:
            control = self._control.get(token)
            steps = self._turn.text(detokenizer.add(token)) if control is None else self._turn.control(control)
            kinds = [step.kind for step in steps if isinstance(step, Opened)]
            begun = REASONING if kinds[-1:] == ["reasoning"] else TEXT if kinds else begun
        self._turn.go_on()
        self._enter(begun)
        self._begun = prompt.continues and self._turn.in_body

    def _is_call(self, recipient: str) -> bool:
        return bool(self._offered) and bool(call_of(recipient, self._offered))

    def _take_token(self, token: int, logprob: TokenLogprob | None) -> None:
        control = self._control.get(token)
        if control is not None:
            self._take(self._detokenizer.flush())
            self._follow(self._turn.control(control))
            return
        if logprob is not None and self._turn.in_body and self._mode == TEXT and self._reader is None:
            self._logprobs.append(logprob)
        self._take(self._detokenizer.add(token))

    def _take(self, text: str) -> None:
        self._follow(self._turn.text(text))

    def _follow(self, steps: list[Step]) -> None:
        for step in steps:
            if self.is_over:
                return
            match step:
                case Opened(kind="call", recipient=recipient):
                    self._enter(TEXT)
                    self._open_call(BodyCall(call_of(recipient, self._offered)))
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
            self._leave_call()
            self._gap = ""

    def _close(self, *, complete: bool) -> None:
        self._follow(self._turn.finish(is_complete=complete))
        super()._close(complete=complete)
