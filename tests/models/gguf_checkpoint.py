"""A checkpoint of the test models as a GGUF file in 32-bit floats, so that llama.cpp runs the very same weights.

    python -m tests.models.gguf_checkpoint FOLDER OUT.gguf

Qwen 3's architecture with a byte-level vocabulary, which is what `agent-full` and `random_checkpoint full` are, and the
Llama of `scripted_checkpoint`, whose queries and keys are zero (a true Llama's would have to be permuted). Written
by hand after the format's description (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

_ALIGNMENT = 32
_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def build_gguf(folder: Path, out: Path, *, template: str | None = None, control: dict[int, str] | None = None) -> Path:
    """`template` takes the place of the checkpoint's own; an empty one leaves it out. Tokens of `control` get other
    names and are control tokens."""
    config = json.loads((folder / "config.json").read_text())
    values = {**_architecture(config), **_tokenizer(folder, config)}
    text = (folder / "chat_template.jinja").read_text() if template is None else template
    if text:
        values["tokenizer.chat_template"] = text
    for index, name in (control or {}).items():
        values["tokenizer.ggml.tokens"][index] = name
        values["tokenizer.ggml.token_type"][index] = _CONTROL
    weights = {_tensor_name(name): _floats(array) for name, array in mx.load(str(folder / "model.safetensors")).items()}
    write_gguf(out, values, weights)
    return out


def write_gguf(out: Path, values: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    """Any model, in 32-bit floats."""
    with out.open("wb") as file:
        _write(file, values, weights)


def _architecture(config: dict[str, Any]) -> dict[str, Any]:
    named = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(config["rope_theta"]),
    }
    name = config["model_type"]
    if name == "llama":
        named["rope.dimension_count"] = config["head_dim"]
    return {"general.architecture": name, **{f"{name}.{key}": value for key, value in named.items()}}


def _tokenizer(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    file = json.loads((folder / "tokenizer.json").read_text())
    added = {token["id"]: token for token in file["added_tokens"]}
    by_id = {index: token for token, index in file["model"]["vocab"].items()}
    by_id |= {index: token["content"] for index, token in added.items()}
    size = config["vocab_size"]
    eos = config.get("eos_token_id", 0)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [by_id.get(index, f"[PAD{index}]") for index in range(size)],
        "tokenizer.ggml.token_type": [_kind(index, by_id, added) for index in range(size)],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in file["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": eos[0] if isinstance(eos, list) else eos,
        "tokenizer.ggml.add_bos_token": False,
    }


def _kind(index: int, by_id: dict[int, str], added: dict[int, Any]) -> int:
    if index not in by_id:
        return _UNUSED
    if index not in added:
        return _NORMAL
    return _CONTROL if added[index]["special"] else _USER_DEFINED


def _tensor_name(name: str) -> str:
    name = name.removeprefix("model.").removesuffix(".weight")
    if name in _WHOLE:
        return f"{_WHOLE[name]}.weight"
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_LAYER[rest]}.weight"


def _floats(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def _write(file: BinaryIO, values: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(values)))
    for key, value in values.items():
        file.write(_text(key) + _value(value))
    offset = 0
    for name, array in weights.items():
        shape = array.shape[::-1]  # the fastest first
        file.write(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset))
        offset += _aligned(array.nbytes)
    file.write(b"\0" * (_aligned(file.tell()) - file.tell()))
    for array in weights.values():
        file.write(array.tobytes())
        file.write(b"\0" * (_aligned(array.nbytes) - array.nbytes))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value[0], float):
        return struct.pack("<IIQ", _ARRAY, _F32, len(value)) + struct.pack(f"<{len(value)}f", *value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
    return struct.pack("<IIQ", _ARRAY, _I32, len(value)) + struct.pack(f"<{len(value)}i", *value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    print(build_gguf(options.folder, options.out))
