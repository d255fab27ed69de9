"""Generated tokens to text, for `worker.answers`: what needs the model's own tokenizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from shared.events import Event, FinishReason, TokenLogprob
from shared.request import GenerateRequest
from worker.answers.form import AnswerFormat, Beginning, EndReason
from worker.answers.harmony_stream import HarmonyStream
from worker.answers.reasoning import TEXT, Markup
from worker.answers.stream import AnswerStream
from worker.engines.tokens.closing import find_closing
from worker.engines.tokens.detokenize import TokenTexts
from worker.formats.families import ASKED, FAMILIES, Family
from worker.formats.harmony import START, is_harmony
from worker.formats.readers import CallFormat, shown_format
from worker.formats.reasoning import UNSHOWN, Reasoning
from worker.prompt import Prompt, Said, Spelling, call_sample, find_reasoning

# What goes on with a raw prompt is text, whatever it spells.
RAW_ANSWER = AnswerFormat(Markup(), CallFormat(ASKED))


class OutputFormat:
    """What is known of a model's answers; built once per tokenizer (`output_format`)."""

    def __init__(self, tokenizer: Any) -> None:
        self.texts = TokenTexts(tokenizer)
        self.ends = frozenset(tokenizer.eos_token_ids)
        self.harmony_tokens = _harmony_tokens(tokenizer)
        family = _shown(tokenizer)
        self.shows_calls = family is not None
        self.reasoning = None if self.harmony_tokens else find_reasoning(tokenizer)
        self.section_end = tokenizer.get_vocab().get(self.reasoning.end) if self.reasoning else None
        self.answer = AnswerFormat(_markup(tokenizer, self.reasoning), CallFormat(family or ASKED))
        start = None if self.answer.calls.is_prose else tokenizer.get_vocab().get(self.answer.calls.start)
        self._call_start = None if start is None or self.harmony_tokens else int(start)
        self.closing = find_closing(tokenizer, self.reasoning, is_harmony=bool(self.harmony_tokens))

    def barred(self, request: GenerateRequest) -> dict[int, float]:
        """Biases that keep an answer from calling, where the request forbids it and one token begins a call."""
        is_forbidden = bool(request.tools) and request.tool_choice.mode == "none"
        return {self._call_start: -math.inf} if is_forbidden and self._call_start is not None else {}


def _markup(tokenizer: Any, reasoning: Reasoning | None) -> Markup:
    markup = _around(reasoning or UNSHOWN)
    return replace(
        markup,
        structural=tuple(tokenizer.structural_markers),
        transitions=tokenizer.response_transitions,
        initial=tokenizer.response_initial_state or TEXT,
    )


def _around(reasoning: Reasoning) -> Markup:
    return Markup(
        think_start=reasoning.start,
        think_end=reasoning.end,
        answer_start=reasoning.answer_start,
        answer_end=reasoning.answer_end,
        wraps_always=reasoning.wraps_always,
        is_phrase=reasoning.is_phrase,
        between=reasoning.between,
    )


def _shown(tokenizer: Any) -> Family | None:
    """The format of calls that the chat template shows. One that the checkpoint declares, or mlx-lm infers, counts
    instead, unless the template shows one that mlx-lm has no parser for."""
    sample = call_sample(tokenizer)
    shown = shown_format(sample.source, sample.rendered, sample.name, tokenizer.get_vocab())
    named = tokenizer.tool_parser.__module__.rpartition(".")[2] if tokenizer.has_tool_calling else ""
    return FAMILIES[named] if named in FAMILIES and (shown is None or shown.has_parser) else shown


def _harmony_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids and texts of all control tokens, when the vocabulary is of that format."""
    control = {index: str(added.content) for index, added in tokenizer.added_tokens_decoder.items() if added.special}
    return control if is_harmony(control.values()) else {}


@functools.lru_cache(maxsize=4)
def output_format(tokenizer: Any) -> OutputFormat:
    """Call it once when the model is loaded: for a large vocabulary it takes a tenth of a second."""
    return OutputFormat(tokenizer)


class OutputStream:
    """One answer, token by token. Not thread-safe."""

    def __init__(
        self, tokenizer: Any, request: GenerateRequest, prompt: Prompt, make_tool_id: Callable[[], str]
    ) -> None:
        self._format = output_format(tokenizer)
        self._detokenizer = self._format.texts.new_detokenizer()
        self._control = {} if request.is_raw else self._format.harmony_tokens
        self._prompt = prompt
        self._tokens: list[int] = []
        self.spelling: Spelling | None = None  # of the whole answer, once it has ended
        self._answer = self._new_answer(request, make_tool_id)
        self._has_ended = False

    def _new_answer(self, request: GenerateRequest, make_tool_id: Callable[[], str]) -> AnswerStream:
        if request.is_raw:
            return AnswerStream(RAW_ANSWER, request, Beginning(continues=True), make_tool_id)
        form = self._format.answer
        beginning = Beginning(in_reasoning=self._prompt.in_reasoning, continues=self._prompt.continues)
        if self._control:
            return HarmonyStream(form, request, beginning, make_tool_id, self._opening())
        return AnswerStream(form, request, beginning, make_tool_id)

    def _opening(self) -> Iterator[tuple[str, bool]]:
        """The message that the prompt has begun: its text, and whether it is a control token's."""
        start = next((id_ for id_, text in self._control.items() if text == START), None)
        tokens = self._prompt.tokens
        at = next((i for i in range(len(tokens) - 1, -1, -1) if tokens[i] == start), len(tokens))
        detokenizer = self._format.texts.new_detokenizer()
        for token in tokens[at:]:
            control = self._control.get(token)
            yield (detokenizer.add(token), False) if control is None else (control, True)

    @property
    def is_over(self) -> bool:
        """Whether the answer has ended: at a token that ends it, or although the model might go on."""
        return self._has_ended or self._answer.is_over

    @property
    def is_reasoning(self) -> bool:
        """Whether the answer is inside reasoning at the moment."""
        return self._answer.is_reasoning

    @property
    def holds_logprobs(self) -> bool:
        """Whether logprobs wait for the text that they belong to."""
        return self._answer.holds_logprobs

    def feed(self, token: int, logprob: TokenLogprob | None = None) -> list[Event]:
        """Events that this token makes certain. Tokens that end the answer, and any once it is over, add none."""
        if self.is_over or self._ends(token):
            self._has_ended = True
            return []
        self._tokens.append(token)
        control = self._control.get(token)
        if control is None:
            return self._answer.text(self._detokenizer.add(token), logprob)
        return [*self._answer.text(self._detokenizer.flush()), *self._answer.control(control, logprob)]

    def _ends(self, token: int) -> bool:
        """A token that ends answers and reasoning, too, ends the latter first."""
        return token in self._format.ends and not (token == self._format.section_end and self.is_reasoning)

    def finish(self, reason: EndReason) -> tuple[list[Event], FinishReason, str]:
        """The last events, why the answer ended, and the stop sequence if one matched."""
        rest = self._answer.text(self._detokenizer.flush())
        events, final, stop_sequence = self._answer.finish(reason)
        if (whole := self._answer.whole) is not None:
            self.spelling = self._prompt.remember(Said.of(whole.text, whole.calls, whole.reasoning), self._tokens)
        return [*rest, *events], final, stop_sequence
