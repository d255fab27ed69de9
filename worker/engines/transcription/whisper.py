"""Whisper's network as MLX modules, under the names that mlx-whisper's folders have.

Source: Radford et al. 2022, https://arxiv.org/abs/2212.04356. An encoder reads thirty seconds of sound; a decoder
writes tokens and looks back at it. Keys have no bias; the head is the tokens' own embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

Pair = tuple[mx.array, mx.array]  # keys and values
Layer = tuple[Pair | None, Pair | None]  # of a decoder's layer: those of the tokens, those of the sound


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperConfig:
    bands: int
    frames: int  # of the encoder's states
    states: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    tokens: int  # that the decoder sees at once

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> WhisperConfig:
        """From the names of OpenAI and mlx-whisper, or of transformers. Raises `KeyError`."""
        names = _OWN if "n_mels" in config else _TRANSFORMERS
        return cls(**{field: int(config[name]) for field, name in names.items()})


_OWN: Final = {
    "bands": "n_mels",
    "frames": "n_audio_ctx",
    "states": "n_audio_state",
    "heads": "n_audio_head",
    "encoder_layers": "n_audio_layer",
    "decoder_layers": "n_text_layer",
    "vocabulary": "n_vocab",
    "tokens": "n_text_ctx",
}
_TRANSFORMERS: Final = {
    "bands": "num_mel_bins",
    "frames": "max_source_positions",
    "states": "d_model",
    "heads": "encoder_attention_heads",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "vocabulary": "vocab_size",
    "tokens": "max_target_positions",
}


class _Attention(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.states, config.states)
        self.key = nn.Linear(config.states, config.states, bias=False)
        self.value = nn.Linear(config.states, config.states)
        self.out = nn.Linear(config.states, config.states)
        self._heads = config.heads

    def pair(self, x: mx.array) -> Pair:
        return self._split(self.key(x)), self._split(self.value(x))

    def __call__(self, x: mx.array, pair: Pair, mask: mx.array | None = None) -> mx.array:
        query = self._split(self.query(x))
        scale = query.shape[-1] ** -0.5
        seen = mx.fast.scaled_dot_product_attention(query, *pair, scale=scale, mask=mask)
        return self.out(seen.transpose(0, 2, 1, 3).reshape(x.shape))

    def looks(self, x: mx.array, pair: Pair) -> mx.array:
        """(1, heads, tokens, frames): where each token looks, before the softmax."""
        query = self._split(self.query(x))
        return (query * query.shape[-1] ** -0.5) @ pair[0].transpose(0, 1, 3, 2)

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self._heads, -1).transpose(0, 2, 1, 3)


class _Block(nn.Module):
    def __init__(self, config: WhisperConfig, *, is_decoder: bool) -> None:
        super().__init__()
        self.attn = _Attention(config)
        self.attn_ln = nn.LayerNorm(config.states)
        if is_decoder:
            self.cross_attn = _Attention(config)
            self.cross_attn_ln = nn.LayerNorm(config.states)
        self.mlp1 = nn.Linear(config.states, 4 * config.states)
        self.mlp2 = nn.Linear(4 * config.states, config.states)
        self.mlp_ln = nn.LayerNorm(config.states)

    def __call__(self, x: mx.array) -> mx.array:
        normal = self.attn_ln(x)
        return self._widened(x + self.attn(normal, self.attn.pair(normal)))

    def decode(
        self, x: mx.array, sound: mx.array, mask: mx.array | None, layer: Layer, looks: list[mx.array] | None
    ) -> tuple[mx.array, Layer]:
        normal = self.attn_ln(x)
        pair, heard = layer
        new = self.attn.pair(normal)
        pair = new if pair is None else (mx.concatenate([pair[0], new[0]], 2), mx.concatenate([pair[1], new[1]], 2))
        x = x + self.attn(normal, pair, mask)
        normal = self.cross_attn_ln(x)
        heard = self.cross_attn.pair(sound) if heard is None else heard
        if looks is not None:
            looks.append(self.cross_attn.looks(normal, heard))
        x = x + self.cross_attn(normal, heard)
        return self._widened(x), (pair, heard)

    def _widened(self, x: mx.array) -> mx.array:
        return x + self.mlp2(nn.gelu(self.mlp1(self.mlp_ln(x))))


class _Encoder(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.bands, config.states, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.states, config.states, kernel_size=3, stride=2, padding=1)
        self._positions = mx.array(_sinusoids(config.frames, config.states))
        self.blocks = [_Block(config, is_decoder=False) for _ in range(config.encoder_layers)]
        self.ln_post = nn.LayerNorm(config.states)

    def __call__(self, mel: mx.array) -> mx.array:
        x = nn.gelu(self.conv2(nn.gelu(self.conv1(mel))))
        x = x + self._positions.astype(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class _Decoder(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.states)
        self.positional_embedding = mx.zeros((config.tokens, config.states))
        self.blocks = [_Block(config, is_decoder=True) for _ in range(config.decoder_layers)]
        self.ln = nn.LayerNorm(config.states)


class Whisper(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    def hear(self, mel: mx.array) -> mx.array:
        """(frames, bands) -> (1, frames / 2, states)."""
        return self.encoder(mel[None].astype(self.encoder.conv1.weight.dtype))

    def read(
        self, tokens: mx.array, sound: mx.array, cache: list[Layer] | None = None, looks: list[mx.array] | None = None
    ) -> tuple[mx.array, list[Layer]]:
        """(tokens,) that follow those of the cache -> (tokens, vocabulary), and the cache behind them. `looks` gets
        where the tokens look in the sound, layer by layer."""
        decoder = self.decoder
        layers: list[Layer] = cache or [(None, None)] * len(decoder.blocks)
        before = 0 if layers[0][0] is None else layers[0][0][0].shape[2]
        count = tokens.shape[0]
        x = (decoder.token_embedding(tokens) + decoder.positional_embedding[before : before + count])[None]
        mask = _causal(count, before).astype(x.dtype) if count > 1 else None
        after: list[Layer] = []
        for block, layer in zip(decoder.blocks, layers, strict=True):
            x, layer = block.decode(x, sound, mask, layer, looks)
            after.append(layer)
        return decoder.token_embedding.as_linear(decoder.ln(x))[0], after


def _causal(count: int, before: int) -> mx.array:
    sees = mx.arange(before + count)[None] <= mx.arange(before, before + count)[:, None]
    return mx.where(sees, 0.0, -mx.inf)


def _sinusoids(length: int, width: int) -> np.ndarray[Any, Any]:
    """Vaswani et al. 2017, section 3.5, sines before cosines."""
    rates = np.exp(-np.log(10_000.0) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(length)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


_RENAMED: Final = (  # transformers' names, in this order
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp1."),
    (r"\.fc2\.", ".mlp2."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
    (r"\.embed_tokens\.", ".token_embedding."),
    (r"^decoder\.embed_positions\.weight$", "decoder.positional_embedding"),
)


def own_weights(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Under the names here, convolutions as MLX has them."""
    if not any(name.removeprefix("model.").startswith("encoder.layers.") for name in weights):
        return dict(weights)
    found: dict[str, mx.array] = {}
    for name, value in weights.items():
        for pattern, other in _RENAMED:
            name = re.sub(pattern, other, name)
        found[name] = value.transpose(0, 2, 1) if re.match(r"encoder\.conv[12]\.weight", name) else value
    return found
