"""A vocabulary as a `tokenizer.json`, for what compiles grammars: it asks which bytes each token stands for.

How texts are cut is not in it: the server does that.
"""

from __future__ import annotations

import json
from typing import Any

from worker.engines.gguf.vocabulary import Vocabulary

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_SPACES: dict[str, Any] = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


class TokenizerFile:
    """What a fast tokenizer's backend is to `worker.engines.tokens.constraints`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def to_str(self) -> str:
        vocabulary = self._vocabulary
        return json.dumps(
            {
                "version": "1.0",
                "added_tokens": [_added(index, token) for index, token in sorted(vocabulary.added.items())],
                "normalizer": None,
                "pre_tokenizer": _BYTE_LEVEL if vocabulary.is_byte_level else None,
                "post_processor": None,
                "decoder": _BYTE_LEVEL if vocabulary.is_byte_level else _SPACES,
                "model": _model(vocabulary),
            }
        )


def _model(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "type": "BPE",
        "byte_fallback": not vocabulary.is_byte_level,
        "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
        "merges": vocabulary.merges if vocabulary.is_byte_level else [],
    }


def _added(index: int, token: Any) -> dict[str, Any]:
    return {
        "id": index,
        "content": token.content,
        "special": token.special,
        "normalized": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
    }
