"""A tiny projector of random weights (CLIP with two layers, LLaVA's two linear ones behind it) as a GGUF file, which
llama.cpp loads beside a model to read images of 28 by 28 in four patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.models.gguf_checkpoint import write_gguf

WIDTH, LAYERS, HEADS, INNER, PATCH, SIDE = 32, 2, 2, 64, 14, 28
PATCHES = (SIDE // PATCH) ** 2


def build_projector(out: Path, hidden: int) -> Path:
    """`hidden` is the width of the model beside it."""
    values = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
        "clip.vision.image_size": SIDE,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": WIDTH,
        "clip.vision.feed_forward_length": INNER,
        "clip.vision.projection_dim": hidden,
        "clip.vision.block_count": LAYERS,
        "clip.vision.attention.head_count": HEADS,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }
    random = np.random.default_rng(1)
    write_gguf(out, values, {name: _random(random, shape) for name, shape in _shapes(hidden).items()})
    return out


def _random(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return random.normal(0, 0.3, shape).astype(np.float32)


def _shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "v.class_embd": (WIDTH,),
        "v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH),
        "v.position_embd.weight": (PATCHES + 1, WIDTH),
        **_pair("v.pre_ln", WIDTH),
        **_pair("mm.0", hidden, WIDTH),
        **_pair("mm.2", hidden, hidden),
    }
    for number in range(LAYERS):
        at = f"v.blk.{number}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes |= _pair(f"{at}.{name}", WIDTH, WIDTH)
        shapes |= _pair(f"{at}.ln1", WIDTH) | _pair(f"{at}.ln2", WIDTH)
        shapes |= _pair(f"{at}.ffn_up", INNER, WIDTH) | _pair(f"{at}.ffn_down", WIDTH, INNER)
    return shapes


def _pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
