"""A Whisper model in memory: its network, its tokens, and which of its heads follow the sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from tokenizers import Tokenizer

from shared.errors import ModelUnavailableError
from worker.engines.transcription.folder import check_folder, generation_config, is_multilingual, weight_files
from worker.engines.transcription.tokens import Tokens
from worker.engines.transcription.whisper import Whisper, WhisperConfig, own_weights

Heads = tuple[tuple[int, int], ...]  # layer and head


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperModel:
    network: Whisper
    config: WhisperConfig
    tokens: Tokens
    heads: Heads


def load_whisper(folder: Path) -> WhisperModel:
    """Raises `ModelUnavailableError` with the reason."""
    try:
        return _load(folder, check_folder(folder))
    except ModelUnavailableError:
        raise
    except Exception as error:  # a folder may hold anything, and its tokenizer's reader raises plain exceptions
        raise ModelUnavailableError(f"it is no Whisper model that can be read: {error!r}") from error


def _load(folder: Path, said: dict[str, Any]) -> WhisperModel:
    config = WhisperConfig.of(said)
    weights = own_weights(_weights(folder))
    heads = weights.pop("alignment_heads", None)
    network = Whisper(config)
    _quantize(network, said, weights)
    wanted = [name for name, _ in nn.utils.tree_flatten(network.parameters())]
    network.load_weights([(name, weights[name]) for name in wanted])
    if mx.default_device() == mx.cpu:  # whose matrices of half precision take many times longer
        network.set_dtype(mx.float32)
    mx.eval(network.parameters())
    generation = generation_config(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return WhisperModel(
        network=network,
        config=config,
        tokens=Tokens.of(tokenizer, is_multilingual=is_multilingual(config.vocabulary, generation)),
        heads=_heads(config, heads.tolist() if heads is not None else generation.get("alignment_heads")),
    )


def _weights(folder: Path) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for path in weight_files(folder):
        read = mx.load(str(path))
        assert isinstance(read, dict)
        weights |= read
    return weights


def _quantize(network: Whisper, said: Mapping[str, Any], weights: Mapping[str, mx.array]) -> None:
    asked = said.get("quantization")
    if isinstance(asked, dict):
        nn.quantize(
            network,
            group_size=asked["group_size"],
            bits=asked["bits"],
            class_predicate=lambda name, _: f"{name}.scales" in weights,
        )


def _heads(config: WhisperConfig, said: Any) -> Heads:
    """Those that the model names, else all of the upper half of the layers, as the original takes them."""
    if said:
        return tuple((int(layer), int(head)) for layer, head in said)
    layers = range(config.decoder_layers // 2, config.decoder_layers)
    return tuple((layer, head) for layer in layers for head in range(config.heads))
