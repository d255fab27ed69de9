"""What the engine asks of whatever embeds a model's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from worker.engines.mlx.eyes.places import Places
from worker.prompt.image_files import Pixels, Processor


@dataclass(frozen=True, slots=True)
class Seen:
    """What the model reads at an image's tokens, [tokens, width]. `deep`: the same for what it adds behind each of its
    first layers, where it does."""

    rows: mx.array
    deep: Sequence[mx.array] = ()

    def part(self, start: int, end: int) -> Seen:
        return Seen(self.rows[start:end], [rows[start:end] for rows in self.deep])


def joined(pieces: Sequence[Seen]) -> Seen:
    """One behind the other; where a piece has nothing for the deeper layers, nothing is added."""
    layers = max(len(piece.deep) for piece in pieces)
    deep = [
        [piece.deep[layer] if piece.deep else mx.zeros_like(piece.rows) for piece in pieces] for layer in range(layers)
    ]
    return Seen(mx.concatenate([piece.rows for piece in pieces]), [mx.concatenate(each) for each in deep])


class Eyes(Protocol):
    """Of one model. But for the processor it belongs to the engine thread."""

    @property
    def processor(self) -> Processor: ...

    @property
    def places(self) -> Places | None:
        """Where its passes are told of places, if it has them."""

    def words(self, tokens: mx.array) -> mx.array:
        """What the model reads at tokens of text, [tokens, width]."""

    def image(self, tokens: mx.array, pixels: Pixels) -> Seen:
        """At those of one image, and at the control tokens among them."""


class OwnEyes:
    """Of a model whose images mlx-lm embeds."""

    places = None

    def __init__(self, model: Any, processor: Processor) -> None:
        self._model = model
        self.processor = processor

    def words(self, tokens: mx.array) -> mx.array:
        rows: mx.array = self._model.embed_inputs(tokens)
        return rows

    def image(self, tokens: mx.array, pixels: Pixels) -> Seen:
        assert isinstance(pixels, np.ndarray)
        return Seen(self._model.embed_inputs(tokens, pixel_values=[mx.array(pixels)]))
