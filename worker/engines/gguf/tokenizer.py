"""A GGUF model's tokenizer, as the rest of the worker knows tokenizers: cut by the server, spelled from the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker.engines.gguf.tokenizer_file import TokenizerFile
from worker.engines.gguf.vocabulary import AddedToken, Vocabulary
from worker.engines.tokens.detokenize import ByteTable

Cut = Callable[[str, bool], Sequence[int]]

_TEMPLATE = "tokenizer.chat_template"
_TOOL_TEMPLATE = f"{_TEMPLATE}.tool_use"
_THINKING = (("<think>", "</think>"), ("<longcat_think>", "</longcat_think>"), ("<|think:start|>", "<|think:end|>"))


class GgufTokenizer:
    """`cut` is how a text becomes tokens, with what the model puts at a text's beginning or without. Thread-safe, if
    `cut` is. What is asked of it beside that is what mlx-lm's wrapper has."""

    # Calls are found in the template by our own table of families.
    tool_call_end: str | None = None
    has_tool_calling = False
    structural_markers: tuple[str, ...] = ()
    response_initial_state: str | None = None

    def __init__(self, vocabulary: Vocabulary, values: Mapping[str, Any], cut: Cut) -> None:
        self.vocabulary = vocabulary
        self._cut = cut
        self._templates = {key: str(values[key]) for key in (_TEMPLATE, _TOOL_TEMPLATE) if values.get(key)}
        self.eos_token_ids = set(vocabulary.ends)
        self._ids = {token: index for index, token in enumerate(vocabulary.tokens)}
        pairs = (pair for pair in _THINKING if all(mark in self._ids for mark in pair))
        self.think_start: str | None
        self.think_end: str | None
        self.think_start, self.think_end = next(pairs, (None, None))
        self.chat_template: Any = self._templates.get(_TEMPLATE)
        self.init_kwargs: dict[str, Any] = {}
        self.response_transitions: dict[str, Any] = {}

    @property
    def has_chat_template(self) -> bool:
        return _TEMPLATE in self._templates

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        return self._templates[_TOOL_TEMPLATE if tools and _TOOL_TEMPLATE in self._templates else _TEMPLATE]

    def apply_chat_template(self, *args: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        """Templates of GGUF files are Jinja's: they are rendered elsewhere."""
        raise NotImplementedError

    @property
    def special_tokens_map(self) -> dict[str, str]:
        named = {"bos_token": self.vocabulary.bos, "eos_token": self.vocabulary.eos}
        return {name: self.vocabulary.text_of(index) for name, index in named.items() if index is not None}

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        return self.vocabulary.added

    @property
    def backend_tokenizer(self) -> TokenizerFile:
        return TokenizerFile(self.vocabulary)

    @property
    def detokenizer(self) -> ByteTable:
        return self.vocabulary.table

    def get_vocab(self) -> dict[str, int]:
        return self._ids

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return list(self._cut(text, add_special_tokens)) if text else []

    def decode(self, tokens: Sequence[int]) -> str:
        pieces = self.vocabulary.table.pieces
        return b"".join(pieces[token] for token in tokens if 0 <= token < len(pieces)).decode(errors="replace")
