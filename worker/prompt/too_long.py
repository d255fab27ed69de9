"""Prompts that are far too long are refused before all of them has been tokenised.

Tokenising is most of what a prompt costs before its first token: two megabytes take many seconds, and most windows
are full after a tenth of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain

from shared import exact
from shared.errors import PromptTooLongError
from shared.messages import Message, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest
from worker.prompt.encode import Encoder

# A token stands for about four characters. Where a prompt has no more for each token of the window than this, it may
# fit, and is tokenised once, as a whole.
_SURELY_TRIED = 5
_SHORT_CHARS = 64 * 1024
_PIECE_CHARS = 16 * 1024
_CUT_TOKENS = 8  # that a cut between two pieces may add


def refuse_hopeless(request: GenerateRequest, encoder: Encoder, context_tokens: int) -> None:
    """Raises `PromptTooLongError` with an estimate when a part of the texts, tokenised by pieces, fills the window.
    What has been read to its end is left to be counted.

    The estimate is the tokens so far, scaled by what they were made of. Earlier reasoning is left out, which a template
    may drop, and so are files, which are not text yet.
    """
    texts = [text.strip() for text in _texts(request)]
    total_chars = sum(map(len, texts))
    if total_chars <= max(_SURELY_TRIED * context_tokens, _SHORT_CHARS):
        return
    tokens = chars = 0
    for piece in _pieces(texts):
        tokens += max(0, len(encoder.encode(piece)) - _CUT_TOKENS)
        chars += len(piece)
        if tokens > context_tokens and chars < total_chars:
            estimate = max(tokens * total_chars // chars, context_tokens + 1)
            raise PromptTooLongError.of(estimate, context_tokens)


def _texts(request: GenerateRequest) -> Iterator[str]:
    yield request.prompt
    yield request.suffix
    for tool in request.tools:
        if not tool.deferred:
            yield tool.description
            with contextlib.suppress(RecursionError):  # nested beyond reason: it is left to others to say so
                yield exact.dumps(tool.parameters, ensure_ascii=False)
    yield from chain.from_iterable(map(_texts_of, request.messages))


def _texts_of(message: Message) -> Iterator[str]:
    for part in message.parts:
        match part:
            case TextPart(text=text) | ToolCallPart(arguments=text):
                yield text
            case ToolResultPart(parts=inner):
                yield from (each.text for each in inner if isinstance(each, TextPart))


def _pieces(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield from (text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS))
