"""Loads a model from its folder. Never touches the network and never runs code that came with a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model, load_tokenizer

from shared.errors import ModelUnavailableError
from worker.device.turns import Turn
from worker.engines.mlx.eyes.base import Eyes
from worker.engines.mlx.eyes.finding import Sight, find_sight
from worker.engines.mlx.eyes.places import Places
from worker.engines.mlx.model.ends import answer_ends
from worker.engines.mlx.model.fingerprint import read_prints
from worker.engines.mlx.model.sampling_defaults import SamplingDefaults, load_defaults
from worker.engines.mlx.model.weights import materialise
from worker.model_folder import check_folder, parse_json, without_byte_order_marks

DEFAULT_CONTEXT_TOKENS = 32768  # for models that do not say
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """`vocab` is the width of the logits, which may exceed the tokenizer's vocabulary."""

    model: Any
    tokenizer: TokenizerWrapper
    config: dict[str, Any]
    context_tokens: int
    vocab: int
    weight_bytes: int
    fingerprint: bytes  # the same for the same weights, wherever they lie
    identity: str  # the same for the same model: weights, tokenizer and template
    defaults: SamplingDefaults
    eyes: Eyes | None = None  # where the model reads images
    no_images: str = ""  # why it does not, where it could

    @property
    def places(self) -> Places | None:
        return self.eyes.places if self.eyes is not None else None


def context_tokens_of(config: dict[str, Any], tokenizer_limit: int, cap: int) -> int:
    """The context window: the config's, else its text part's, else the tokenizer's; `cap` 0 means none."""
    window = 0
    for part in (config, config.get("text_config") or {}):
        window = window or next((int(part[key]) for key in _CONTEXT_KEYS if isinstance(part.get(key), int)), 0)
    if not window:
        window = tokenizer_limit if 0 < tokenizer_limit < 10**9 else DEFAULT_CONTEXT_TOKENS
    return min(window, cap) if cap > 0 else window


def load(
    folder: Path,
    *,
    max_context_tokens: int,
    report: Callable[[float], None],
    turn: Turn = nullcontext,
    has_eyes: bool = True,
) -> LoadedModel:
    """Load weights and tokenizer from `folder`, and its eyes unless told not to; whatever uses the device is done in
    pieces, each in a `turn`. Raises `ModelUnavailableError` with the reason."""
    check_folder(folder)
    with without_byte_order_marks(folder) as readable:
        return _load(readable, folder, max_context_tokens, report, turn, has_eyes)


def _load(
    folder: Path, name: Path, max_context_tokens: int, report: Callable[[float], None], turn: Turn, has_eyes: bool
) -> LoadedModel:
    config = parse_json(folder / "config.json")
    report(0.0)
    try:
        with turn():  # reads headers only, but some models' code looks into a tensor
            model, config = load_model(folder, lazy=True)
        materialise(model, folder, report, turn)
        with turn():
            logits = model(mx.array([[0]], mx.int32))
            mx.eval(logits)
        sight = find_sight(model, folder, config, turn) if has_eyes else Sight()
    except Exception as error:
        raise ModelUnavailableError(f"{name} ({config['model_type']}) cannot be loaded: {error}") from error
    except SystemExit as error:  # a module of mlx-lm that lacks a package prints so and ends the process
        raise ModelUnavailableError(
            f"{name} ({config['model_type']}) cannot be loaded: mlx-lm gave up; the worker's log says why"
        ) from error
    try:
        tokenizer = load_tokenizer(folder, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:
        raise ModelUnavailableError(f"the tokenizer in {name} cannot be loaded: {error}") from error
    tokenizer.eos_token_ids = answer_ends(tokenizer)
    report(1.0)
    generation, prints = folder / "generation_config.json", read_prints(folder)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        config=config,
        context_tokens=context_tokens_of(config, int(tokenizer.model_max_length or 0), max_context_tokens),
        vocab=int(logits.shape[-1]),
        weight_bytes=sum(array.nbytes for _, array in tree_flatten(model.parameters())) + sight.nbytes,
        fingerprint=prints.fingerprint,
        identity=prints.identity,
        defaults=load_defaults(parse_json(generation) if generation.is_file() else {}),
        eyes=sight.eyes,
        no_images=sight.reason,
    )
