"""Checkpoints that say given texts, whatever the prompt, through the real engine: worked out and not trained.

A Llama whose attention and hidden layers add nothing: the next token depends on the last one alone. Each token is
embedded as the code of the token that follows it, and codes that are drawn at random hardly overlap. So that a text can
repeat itself, it is cut into pieces of which each is a token of its own that nothing else uses; no merge of the
tokenizer makes them, so prompts never hold them, also where they spell the same text.

Which text is said is the chat template's choice: it ends the prompt with the token `<|say:NAME|>` (see `cue`). After
any other token the text `""` is said, if there is one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.models.random_checkpoint import END, SPECIAL, tokenizer_json, write_checkpoint

_WIDTH = 256
_PIECE_CHARS = 3
_CONTEXT = 262_144
_CERTAINTY = 8.0  # that makes chance draw nothing else, at any temperature


def cue(name: str) -> str:
    """The token that makes the model say the text of this name."""
    return f"<|say:{name}|>"


def build_scripted(
    out: Path,
    texts: Mapping[str, str],
    template: str,
    *,
    control: Sequence[str] = (),
    end: str = END,
    layers: int = 1,
) -> Path:
    """Write the checkpoint to the folder `out` and return `out`.

    `control` are the vocabulary's control tokens besides the usual ones. Where a text spells one that no text has
    spelled before, the token itself is said (as harmony's are, which are known by their ids). `end` ends every answer.
    `layers` add nothing but the time that they take.
    """
    cues = {name: cue(name) for name in texts if name}
    added = [token for token in (*control, *cues.values()) if token not in SPECIAL]
    specification = json.loads(tokenizer_json(tuple(added)))
    vocabulary: dict[str, int] = specification["model"]["vocab"]
    pieces = _Pieces(vocabulary, control)
    following: dict[int, int] = {}
    begins: dict[str, int] = {}
    for name, text in texts.items():
        tokens = [*pieces.of(text), vocabulary[end]]
        begins[name] = tokens[0]
        following |= dict(itertools.pairwise(tokens))
    following |= {vocabulary[cues[name]]: begins[name] for name in cues}
    _mark_special(specification, added)
    config = _config(len(vocabulary), layers)
    weights = _weights(len(vocabulary), following, begins.get("", vocabulary[end]), layers)
    write_checkpoint(out, config, weights, json.dumps(specification))
    (out / "chat_template.jinja").write_text(template, encoding="utf8")
    _name_end(out, end, vocabulary[end])
    return out


class _Pieces:
    """Cuts texts into pieces that are all different, and adds these to the vocabulary."""

    def __init__(self, vocabulary: dict[str, int], control: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._control = sorted(control, key=len, reverse=True)
        self._said: set[str] = set()

    def of(self, text: str) -> list[int]:
        tokens: list[int] = []
        while text:
            at, mark = self._next_mark(text)
            tokens += [self._add(piece) for piece in self._cut(text[:at])]
            if mark:
                self._said.add(mark)
                tokens.append(self._vocabulary[mark])
            text = text[at + len(mark) :]
        return tokens

    def _next_mark(self, text: str) -> tuple[int, str]:
        """The first control token that the text spells and that no text has spelled before, and where it is."""
        found = [(text.find(mark), mark) for mark in self._control if mark in text and mark not in self._said]
        return min(found, default=(len(text), ""))

    def _cut(self, text: str) -> list[str]:
        pieces: list[str] = []
        at = 0
        while at < len(text):
            pieces.append(self._next(text, at, pieces))
            at += len(pieces[-1])
        while len(pieces) > 1 and (self._is_known(pieces[-1]) or pieces[-1] in pieces[:-1]):
            pieces[-2:] = ["".join(pieces[-2:])]  # the rest of the text was no piece of its own
        return pieces

    def _next(self, text: str, at: int, pieces: Sequence[str]) -> str:
        """The shortest piece, from a few characters on, that is no token yet."""
        for length in range(_PIECE_CHARS, len(text) - at + 1):
            piece = text[at : at + length]
            if not self._is_known(piece) and piece not in pieces:
                return piece
        return text[at:]

    def _is_known(self, piece: str) -> bool:
        return _spelled(piece) in self._vocabulary

    def _add(self, piece: str) -> int:
        return self._vocabulary.setdefault(_spelled(piece), len(self._vocabulary))


def _spelled(text: str) -> str:
    """In the alphabet of byte-level vocabularies, which writes every byte as a printable character."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return "".join(alphabet.get(byte, chr(byte)) for byte in text.encode())


def _mark_special(specification: dict[str, Any], added: Sequence[str]) -> None:
    for entry in specification["added_tokens"]:
        entry["special"] = entry["special"] or entry["content"] in added


def _config(vocabulary: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": _WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 32,
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-6,
        "rope_theta": 100000.0,
        "max_position_embeddings": _CONTEXT,
        "tie_word_embeddings": False,
    }


def _weights(vocabulary: int, following: Mapping[int, int], otherwise: int, layers: int) -> dict[str, Any]:
    """`following` says which token comes after which, `otherwise` which after all others."""
    import mlx.core as mx

    codes = mx.random.normal((vocabulary, _WIDTH), key=mx.random.key(0))
    codes = codes / mx.linalg.norm(codes, axis=1, keepdims=True)
    order = mx.array([following.get(token, otherwise) for token in range(vocabulary)])
    weights = {
        "model.embed_tokens.weight": codes[order],
        "lm_head.weight": codes * _CERTAINTY,
        "model.norm.weight": mx.ones((_WIDTH,)),
    }
    for number in range(layers):
        weights |= _layer(f"model.layers.{number}")
    return weights


def _layer(layer: str) -> dict[str, Any]:
    import mlx.core as mx

    return {
        f"{layer}.input_layernorm.weight": mx.ones((_WIDTH,)),
        f"{layer}.post_attention_layernorm.weight": mx.ones((_WIDTH,)),
        f"{layer}.self_attn.q_proj.weight": mx.zeros((32, _WIDTH)),
        f"{layer}.self_attn.k_proj.weight": mx.zeros((16, _WIDTH)),
        f"{layer}.self_attn.v_proj.weight": mx.zeros((16, _WIDTH)),
        f"{layer}.self_attn.o_proj.weight": mx.zeros((_WIDTH, 32)),
        f"{layer}.mlp.gate_proj.weight": mx.zeros((32, _WIDTH)),
        f"{layer}.mlp.up_proj.weight": mx.zeros((32, _WIDTH)),
        f"{layer}.mlp.down_proj.weight": mx.zeros((_WIDTH, 32)),
    }


def _name_end(out: Path, end: str, index: int) -> None:
    for name, key, value in [
        ("config.json", "eos_token_id", index),
        ("generation_config.json", "eos_token_id", index),
        ("tokenizer_config.json", "eos_token", end),
    ]:
        path = out / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}), encoding="utf8")
