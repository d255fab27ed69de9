"""The engine of embedding models. All that touches the device is done on one thread of its own, in turns with the other
workers of its host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Final

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from shared.config import Settings, model_folders
from shared.errors import InvalidRequestError, PromptTooLongError
from shared.events import Embedded
from shared.registry import ModelSpec
from shared.work import KINDS, Embed, unpack_ids
from worker.device.turns import Turns
from worker.engines.base import EngineInfo
from worker.engines.embeddings.model import EmbeddingModel, load_embedding_model
from worker.engines.no_answers import NoAnswers
from worker.model_folder import find_model

log = logging.getLogger(__name__)

_Input = Encoding | Sequence[int]
_Vectors = NDArray[np.float32]
_BATCH_TOKENS: Final = 8192  # of one pass, padding included


class EmbeddingsEngine(NoAnswers):
    """See the module's text and `worker.engines.base.Embedder`."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self._spec = spec
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "embeddings")
        self._model: EmbeddingModel | None = None
        self._turns: Turns | None = None

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        report(0.0)
        model = self._thread.submit(self._load).result()
        report(1.0)
        log.info("loaded %s: vectors of %d, %s pooling", self._spec.source, model.hidden, model.pooling)
        return EngineInfo(context_tokens=model.max_tokens, kinds=(KINDS[Embed].name,), gives_token_ids=False)

    def _load(self) -> EmbeddingModel:
        if self._settings.state_dir.is_absolute():  # what all workers of this host have in common
            self._turns = Turns(self._settings.state_dir / "device", mx.synchronize)
        folder = find_model(self._spec.source, *model_folders())
        with self._turns.turn() if self._turns is not None else nullcontext():
            self._model = load_embedding_model(folder)
        return self._model

    # --- embedding -----------------------------------------------------------------------------------------------

    def embed(self, work: Embed) -> Embedded:
        """Any number of threads may ask at once; one after the other is served. Raises `PromptTooLongError` and
        `InvalidRequestError`."""
        model = self._model
        assert model is not None
        if work.query and model.scores is not None:
            pairs = model.tokenizer.encode_batch([(work.query, text) for text in work.texts])
            _check(model, pairs)
            return self._thread.submit(self._relevances, model, pairs).result()
        texts = (work.query, *work.texts) if work.query else work.texts
        inputs: list[_Input] = [*model.tokenizer.encode_batch(list(texts)), *map(unpack_ids, work.rows)]
        _check(model, inputs)
        made = self._thread.submit(self._vectors, model, inputs).result()
        if not work.query:
            return Embedded(vectors=tuple(row.tobytes() for row in made), input_tokens=_count(inputs))
        scores = (made[1:] @ made[0] + 1.0) / 2.0
        return Embedded(vectors=tuple(np.float32(score).tobytes() for score in scores), input_tokens=_count(inputs))

    def _vectors(self, model: EmbeddingModel, inputs: Sequence[_Input]) -> _Vectors:
        made = np.zeros((len(inputs), model.hidden), dtype=np.float32)
        for places in _batches(inputs):
            with self._turns.turn() if self._turns is not None else nullcontext():
                made[places] = np.array(model.vectors([inputs[place] for place in places]))
        return made

    def _relevances(self, model: EmbeddingModel, pairs: Sequence[Encoding]) -> Embedded:
        scores = np.zeros(len(pairs), dtype=np.float32)
        for places in _batches(pairs):
            with self._turns.turn() if self._turns is not None else nullcontext():
                scores[places] = np.array(model.relevances([pairs[place] for place in places]))
        return Embedded(vectors=tuple(score.tobytes() for score in scores), input_tokens=_count(pairs))

    def unload(self, timeout_s: float) -> bool:
        self._model = None
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._turns is not None:
            self._turns.close()
        return True


def _check(model: EmbeddingModel, inputs: Sequence[_Input]) -> None:
    vocabulary = model.tokenizer.get_vocab_size()
    for one in inputs:
        if not len(one):
            raise InvalidRequestError("input: it has no tokens", param="input")
        if len(one) > model.max_tokens:
            raise PromptTooLongError.of(len(one), model.max_tokens + 1)
        if not isinstance(one, Encoding) and max(one) >= vocabulary:
            raise InvalidRequestError(f"input: {max(one)} is no token of this model", param="input")


def _batches(inputs: Sequence[_Input]) -> list[list[int]]:
    """Places of inputs that are computed together: of like lengths, so that little is padding."""
    batches: list[list[int]] = []
    width = 0
    for place in sorted(range(len(inputs)), key=lambda place: -len(inputs[place])):
        if not batches or (len(batches[-1]) + 1) * width > _BATCH_TOKENS:
            batches.append([])
            width = len(inputs[place])
        batches[-1].append(place)
    return batches


def _count(inputs: Sequence[_Input]) -> int:
    return sum(map(len, inputs))
