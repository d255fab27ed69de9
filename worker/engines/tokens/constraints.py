"""Constraint grammars for a loaded model: built when the first request demands a form, not before."""

from __future__ import annotations

import threading
from typing import Any

from shared.request import GenerateRequest
from worker.engines.tokens.constraint import Constraint, ConstraintCompiler, Grammar, Markers, is_demanding
from worker.engines.tokens.output import output_format
from worker.formats import harmony
from worker.formats.grammars import HARMONY
from worker.formats.reasoning import NO_REASONING


class Constraints:
    """Thread-safe. Taking the tokenizer apart costs up to a second for a large vocabulary."""

    def __init__(self, tokenizer: Any, *, vocab: int) -> None:
        """`tokenizer` is mlx-lm's wrapper around a fast tokenizer; `vocab` the width of the model's logits."""
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._lock = threading.Lock()
        self._compiler: ConstraintCompiler | None = None

    def compile(self, request: GenerateRequest, *, in_reasoning: bool, continues: bool) -> Grammar | None:
        """The grammar that the request demands; None when it demands nothing. Raises `InvalidRequestError` for the
        beginning of an answer (`continues`) that does not fit it."""
        if not is_demanding(request):
            return None
        return self._built().compile(request, in_reasoning=in_reasoning, continues=continues)

    def start(self, grammar: Grammar | None) -> Constraint | None:
        return None if grammar is None else self._built().start(grammar)

    def _built(self) -> ConstraintCompiler:
        with self._lock:
            if self._compiler is None:
                tokenizer = self._tokenizer
                self._compiler = ConstraintCompiler(
                    tokenizer.backend_tokenizer.to_str(),
                    eos_token_ids=sorted(tokenizer.eos_token_ids),
                    vocabulary=self._vocab,
                    markers=_markers(tokenizer),
                )
            return self._compiler


def _markers(tokenizer: Any) -> Markers:
    if output_format(tokenizer).harmony_tokens:
        return Markers(
            think_start=harmony.ANALYSIS,
            think_end=harmony.NEXT,
            call_start=harmony.FUNCTIONS,
            parser="harmony",
            answer_start=harmony.FINAL,
            form=HARMONY,
        )
    form = output_format(tokenizer)
    calls, reasoning = form.answer.calls, form.reasoning or NO_REASONING
    return Markers(
        think_start=reasoning.start,
        think_end=reasoning.closing,
        wrap=(reasoning.answer_start, reasoning.answer_end),
        call_start=calls.start,
        call_end=calls.end,
        parser=calls.family.name,
    )
