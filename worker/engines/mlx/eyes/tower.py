"""The vision half of a model, loaded with mlx-vlm, beside the text half, which is mlx-lm's.

mlx-vlm loads the folder without computing anything; its language half is let go and never read. So a model's words are
what they are for any model of mlx-lm, its caches, batches and drafts too, and mlx-vlm makes the rows of its images.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
import numpy as np
from mlx.utils import tree_flatten
from mlx_vlm.utils import load_model
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor

from shared.errors import UnsupportedContentError
from worker.device.turns import Turn
from worker.engines.mlx.eyes.base import Seen
from worker.engines.mlx.eyes.families import Family, sections_of
from worker.engines.mlx.eyes.places import DeepLayer, Order, PlacedRope, Places, axes_of
from worker.files.messages import IMAGE_REFUSAL
from worker.prompt.image_files import Patches, Pixels

log = logging.getLogger(__name__)

_NOT_PIXELS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "num_crops"})
# Without either, mlx-vlm would cut images as it thinks best.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class TowerProcessor:
    """A processor of mlx-vlm's. Thread-safe."""

    def __init__(self, processor: Any, family: Family, *, merge: int, salt: bytes) -> None:
        self.salt = salt
        self.image_token: str = getattr(processor, family.written)
        self.patch_token: str = processor.image_token
        self._processor = processor
        self._merge = merge
        self._lock = threading.Lock()  # its tokenizer is changed by every call

    def __call__(self, text: str, *, images: Sequence[NDArray[np.uint8]]) -> tuple[str, list[Patches]]:
        with self._lock:
            out = self._processor(text=text, images=[Image.fromarray(image) for image in images])
            written = self._text(np.array(out["input_ids"]).reshape(-1).tolist())
        arrays = {name: _as_array(value) for name, value in out.items() if name not in _NOT_PIXELS}
        return written, [Patches(arrays=arrays, grid=self._grid(arrays))]

    def _text(self, tokens: Sequence[int]) -> str:
        """Without what a tokenizer puts around any text."""
        tokenizer = self._processor.tokenizer
        start = 1 if tokens[0] == tokenizer.bos_token_id else 0
        end = len(tokens) - (tokens[-1] == tokenizer.eos_token_id)
        text: str = tokenizer.decode(tokens[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _grid(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[int, int] | None:
        """How many rows and columns of tokens an image has, for families that say it."""
        if "image_grid_thw" not in arrays:
            return None
        _, rows, columns = arrays["image_grid_thw"].reshape(-1).tolist()
        return rows // self._merge, columns // self._merge


def _as_array(value: Any) -> NDArray[Any]:
    """A copy in ordinary memory."""
    return np.stack([np.array(each) for each in value]) if isinstance(value, list) else np.array(value)


class TowerEyes:
    """See `Eyes`."""

    def __init__(self, tower: Any, words: nn.Module, processor: TowerProcessor, places: Places | None) -> None:
        self._tower = tower
        self._words = words
        self.processor = processor
        self.places = places

    def words(self, tokens: mx.array) -> mx.array:
        rows: mx.array = self._words(tokens)
        return rows

    def image(self, tokens: mx.array, pixels: Pixels) -> Seen:
        try:
            return self._image(tokens, pixels)
        except (IndexError, TypeError, ValueError) as error:  # for an image that its tower was not made for
            log.warning("an image cannot be embedded", exc_info=True)
            raise UnsupportedContentError(f"{IMAGE_REFUSAL}: it cannot be embedded: {error}") from error

    def _image(self, tokens: mx.array, pixels: Pixels) -> Seen:
        assert isinstance(pixels, Patches)
        arrays = {name: mx.array(array) for name, array in pixels.arrays.items()}
        words = self.words(tokens)
        if self.places is not None:
            return self._placed(words, arrays)
        found = self._tower.get_input_embeddings(tokens[None], mask=mx.ones((1, tokens.size), mx.int32), **arrays)
        return Seen(_of_shape(words, found.inputs_embeds[0]))

    def _placed(self, words: mx.array, arrays: Mapping[str, mx.array]) -> Seen:
        """Of a family whose tower gives the rows themselves, and those of deeper layers with them."""
        tower = self._tower.vision_tower
        pixels = arrays["pixel_values"].astype(tower.patch_embed.proj.weight.dtype)
        found = tower(pixels, arrays["image_grid_thw"])
        rows, deep = found if isinstance(found, tuple) else (found, None)
        return Seen(_of_shape(words, rows), [_of_shape(words, each) for each in deep or ()])


def _of_shape(words: mx.array, rows: mx.array) -> mx.array:
    """The rows, which must be as many and as wide as those of the words whose place they take."""
    if rows.shape != words.shape:
        raise ValueError(f"rows of {rows.shape} for tokens of {words.shape}")
    return rows.astype(words.dtype)


def load_tower(
    folder: Path, config: Mapping[str, Any], family: Family, model: Any, turn: Turn
) -> tuple[TowerEyes, int]:
    """The eyes of `model`, and how many bytes they take. Raises whatever mlx-vlm, transformers or the model's files
    raise, and `ValueError` where `model` cannot be told what they need to tell."""
    words = _body_of(model).embed_tokens
    places = None
    if family.order is not None:
        places = _placed(model, family.order, sections_of(config))
        _deepened(model, places, len((config.get("vision_config") or {}).get("deepstack_visual_indexes") or ()))
    with turn():
        tower = load_model(folder, lazy=True)
    if family.is_scaled:  # configs seldom say this width where mlx-vlm looks for it
        tower.config.hidden_size = words(mx.array([0])).shape[-1]
    taken = _let_words_go(tower, words, turn)
    merge = int((config.get("vision_config") or {}).get("spatial_merge_size", 2))
    processor = TowerProcessor(AutoProcessor.from_pretrained(folder), family, merge=merge, salt=_salt(folder))
    return TowerEyes(tower, words, processor, places), taken


def _salt(folder: Path) -> bytes:
    """Of what decides how images are cut: what is kept of an image is no other cut's."""
    files = [path for path in (folder / name for name in _PROCESSOR_FILES) if path.is_file()]
    if not files:
        raise ValueError(f"the folder has no {' or '.join(_PROCESSOR_FILES)}")
    digest = hashlib.sha256(mlx_vlm.__version__.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.digest()


def _let_words_go(tower: Any, words: nn.Module, turn: Turn) -> int:
    """Read the vision half of a lazily loaded model, each array in a `turn`, and give it the other half's words for its
    own. Its bytes."""
    language = tower.language_model
    tower.language_model = None
    arrays = [array for _, array in tree_flatten(tower.parameters())]
    for array in arrays:
        with turn():
            mx.eval(array)
    body = language.model
    body.layers, body.embed_tokens = [], words
    language.pop("lm_head", None)
    tower.language_model = language
    return sum(array.nbytes for array in arrays)


def _body_of(model: Any) -> Any:
    """The part of mlx-lm's model that has its layers and its tokens' embedding."""
    for path in ("language_model.model", "language_model", "model"):
        body = model
        for name in path.split("."):
            body = getattr(body, name, None)
        if hasattr(body, "embed_tokens") and hasattr(body, "layers"):
            return body
    raise ValueError(f"nothing is known of where {type(model).__module__} keeps its embedding")


def _deepened(model: Any, places: Places, count: int) -> None:
    """Let the first `count` layers add what images have for them."""
    layers = _body_of(model).layers
    layers[:count] = [DeepLayer(layer, places, index) for index, layer in enumerate(layers[:count])]


def _placed(model: Any, order: Order, sections: Sequence[int]) -> Places:
    """Let the attention of every layer ask for places."""
    attentions = [layer.self_attn for layer in _body_of(model).layers if hasattr(layer, "self_attn")]
    axes = axes_of(order, sections)
    for rope in (attention.rope for attention in attentions):
        if type(rope) is not nn.RoPE or rope.traditional or rope.scale != 1 or rope.dims != 2 * len(axes):
            raise ValueError(f"{type(rope).__name__} of {rope.dims} turns otherwise than sections {list(sections)} say")
    places = Places()
    for attention in attentions:
        attention.rope = PlacedRope(attention.rope, places, axes)
    return places
