"""Which tokens end an answer: what a model's files name, put right by its chat template."""

from __future__ import annotations

import logging

from mlx_lm.tokenizer_utils import TokenizerWrapper

from worker.formats.harmony import end_tokens, is_harmony
from worker.prompt import find_reasoning, turn_end

log = logging.getLogger(__name__)


def answer_ends(tokenizer: TokenizerWrapper) -> frozenset[int]:
    """Ids. One that the template ends its turns with counts although no file names it; one that ends the reasoning
    does not although the files name it, if another ends the turn. Raises `ModelUnavailableError` for a template that
    does not compile."""
    vocabulary, named = tokenizer.get_vocab(), frozenset(tokenizer.eos_token_ids)
    if is_harmony(vocabulary):
        return end_tokens(vocabulary, named)
    control = {index: str(added.content) for index, added in tokenizer.added_tokens_decoder.items()}
    reasoning = find_reasoning(tokenizer)
    of_sections = {vocabulary[reasoning.end]} & named if reasoning and reasoning.end in vocabulary else set()
    ends = named - of_sections
    last = turn_end(tokenizer, control.values(), [control[end] for end in ends if end in control])
    if last and vocabulary[last] not in named:
        log.warning("the chat template ends an answer with %s, which the model's files do not name as an end", last)
    return ends | {vocabulary[last]} if last else ends or named
