"""A small model beside the served one, which says what the served one will probably say."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from shared.config import model_folders
from shared.errors import ModelUnavailableError
from worker.device.turns import Turn
from worker.engines.mlx.decode.batch import prefill
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.classes import cache_bytes
from worker.engines.mlx.kv.rewind import Mark, can_rewind, drop_last
from worker.engines.mlx.memory.plan import measured_size
from worker.engines.mlx.model.models import LoadedModel, load
from worker.model_folder import find_model
from worker.prefix_cache.tokens import common_tokens, pack_tokens

log = logging.getLogger(__name__)

READING_SHARE = 0.25  # of the time, while a prompt is read beside the stream that is to be drafted for
DRAFT_CACHE_SHARE = 0.25  # of the room for the prefix cache
_ODD_SHARE = 0.01  # of the vocabulary may differ: tokens added for a purpose
_UNREAD_TOKENS = 32  # are read by the pass that begins a draft
_FIRST_PIECE_TOKENS = 64
_MOST_PIECE_TOKENS = 512
_PIECE_S = 0.03


def load_draft(source: str, model: LoadedModel, turn: Turn = nullcontext) -> LoadedModel | None:
    """The draft model that a person named for `model`, loaded in turns at the device. None, with a warning, when it
    cannot serve: answers come all the same."""
    try:
        folder = find_model(source, *model_folders())
        draft = load(folder, max_context_tokens=0, report=lambda done: None, turn=turn, has_eyes=False)
        _check(model, draft)
    except ModelUnavailableError as error:
        log.warning("no drafting with draft_model %s: %s", source, error.message)
        return None
    log.info("drafting with %s: %d MB of weights", folder, draft.weight_bytes >> 20)
    return draft


def _check(model: LoadedModel, draft: LoadedModel) -> None:
    """Raises `ModelUnavailableError` when `draft` cannot draft for `model`."""
    ours, theirs = model.tokenizer.get_vocab(), draft.tokenizer.get_vocab()
    odd = sum(theirs.get(text) != token for text, token in ours.items())
    if odd > _ODD_SHARE * len(ours):
        raise ModelUnavailableError(f"its vocabulary differs: {odd} of {len(ours)} tokens")
    if not can_rewind(make_prompt_cache(draft.model)):
        raise ModelUnavailableError(f"the cache of a {draft.config['model_type']} model cannot be rewound")


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What was read of one text: `cache` holds `tokens`."""

    cache: list[Any]
    tokens: list[int] = field(default_factory=list)
    paused_until_s: float = 0.0


class DraftModel:
    """See `speculation.DraftSource`. Drafts greedily, with a cache of its own per text.

    A prompt is read in pieces beside the running stream, so that the stream keeps its pace. What was read of the
    texts that ended last is kept as long as all of it takes at most `max_bytes`.
    """

    def __init__(self, draft: LoadedModel, *, vocab: int, max_bytes: int, reading_share: float) -> None:
        """`vocab` is the width of the served model's logits. While prompts are read, reading takes at most the
        `reading_share` of the time."""
        self._model = draft.model
        self._known = draft.vocab
        self._vocab = vocab
        self._reading_share = reading_share
        self._max_bytes = max_bytes
        layout = Layout.of(draft.model)
        self._size = measured_size(draft.model, layout)
        self._can_cut = layout.is_divisible
        self._piece_tokens = _FIRST_PIECE_TOKENS
        self._readings: dict[str, _Reading] = {}
        self._ended: list[_Reading] = []  # latest last

    def is_ready(self, key: str, tokens: Sequence[int]) -> bool:
        """Whether `tokens`, which only ever grow, were read but for the last few. Reads on for a moment if not."""
        reading = self._readings.get(key)
        if reading is None:
            reading = self._readings[key] = self._begin(tokens)
        unread = len(tokens) - len(reading.tokens)
        if unread <= _UNREAD_TOKENS:
            return True
        began_s = time.perf_counter()
        if began_s < reading.paused_until_s or not self._has_room(len(tokens)):
            return False
        start = len(reading.tokens)
        piece = tokens[start : start + min(self._piece_tokens, unread - 1)]
        prefill(self._model, reading.cache, self._understood(piece))
        reading.tokens += piece
        ended_s = time.perf_counter()
        reading.paused_until_s = ended_s + (ended_s - began_s) * (1 / self._reading_share - 1)
        fitting = int(len(piece) * _PIECE_S / (ended_s - began_s))
        self._piece_tokens = min(max(fitting, _UNREAD_TOKENS), _MOST_PIECE_TOKENS)
        return False

    def draft(self, key: str, tokens: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that it would say after `tokens`, or fewer when one means nothing to the served model.
        To be called when it is ready, and with at least one token more than the last time."""
        reading = self._readings[key]
        unread = tokens[len(reading.tokens) :]
        logits = self._model(mx.array([self._understood(unread)], mx.int32), cache=reading.cache)
        reading.tokens += unread
        drafted = [mx.argmax(logits[:, -1], axis=-1)]
        mark = Mark(reading.cache)
        while len(drafted) < count:
            logits = self._model(drafted[-1][:, None], cache=reading.cache)
            drafted.append(mx.argmax(logits[:, -1], axis=-1))
        mark.restore(reading.cache)
        said: Any = mx.concatenate(drafted).tolist()
        return list(takewhile(lambda token: token < self._vocab, said))

    def end(self, key: str) -> None:
        """The text is complete."""
        reading = self._readings.pop(key, None)
        if reading is not None and reading.tokens:
            self._ended.append(reading)
            self._has_room(0)

    def _begin(self, tokens: Sequence[int]) -> _Reading:
        """Go on with what was read of an earlier text, where the new one begins like it."""
        best, most = None, 0
        packed = pack_tokens(tokens[:-1])
        for reading in self._ended:
            common = common_tokens(pack_tokens(reading.tokens), packed)
            usable = common == len(reading.tokens) or (self._can_cut and common > len(reading.tokens) // 2)
            if usable and common > most:
                best, most = reading, common
        if best is None:
            return _Reading(cache=make_prompt_cache(self._model))
        self._ended.remove(best)
        if most < len(best.tokens):
            drop_last(best.cache, len(best.tokens) - most)
        del best.tokens[most:]
        return best

    def _has_room(self, tokens: int) -> bool:
        """Whether a text of `tokens` may be read, after earlier ones were dropped if need be."""
        room = self._max_bytes - self._size.predict(tokens)
        while self._ended and sum(cache_bytes(reading.cache) for reading in self._ended) > room:
            self._ended.pop(0)
        return room >= 0

    def _understood(self, tokens: Sequence[int]) -> list[int]:
        """Tokens that this model knows; others, which are rare, become any."""
        return [token if token < self._known else 0 for token in tokens]
