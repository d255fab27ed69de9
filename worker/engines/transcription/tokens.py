"""Whisper's tokens: words, and those that say what is to be done, in which language, and when something was said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer

_LANGUAGE: Final = re.compile(r"<\|([a-z]{2,3})\|>")
_TEXTS: Final = frozenset({"<|startoflm|>"})
MARKS_PER_S: Final = 50  # of time
# What nobody says: signs that writers of subtitles add. After https://github.com/openai/whisper, `non_speech_tokens`.
_SIGNS: Final = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]"),
    *("{{", "}}", "♪♪", "♪♪♪"),
)
_NOTES: Final = "♩♪♫♬♭♮♯"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """`languages` by their codes; none where the model knows English alone. `first_time` is the mark of the window's
    beginning. `unsaid` is what no transcript may hold."""

    tokenizer: Tokenizer
    start: int
    end: int
    transcribe: int
    translate: int
    before: int
    silence: int
    untimed: int
    first_time: int
    languages: dict[str, int]
    unsaid: tuple[int, ...]
    blanks: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, is_multilingual: bool) -> Tokens:
        """Raises `KeyError` for a tokenizer that is not Whisper's."""
        every = tokenizer.get_vocab(with_added_tokens=True)
        silence = every.get("<|nospeech|>", every.get("<|nocaptions|>", -1))
        found = {match[1]: number for text, number in every.items() if (match := _LANGUAGE.fullmatch(text))}
        control = {name: every[f"<|{text}|>"] for name, text in _CONTROL.items()}
        unsaid = {control[name] for name in ("start", "transcribe", "translate", "before")} | {silence}
        unsaid |= {every[text] for text in _TEXTS if text in every} | set(found.values()) | _signs(tokenizer)
        return cls(
            tokenizer=tokenizer,
            silence=silence,
            first_time=control["untimed"] + 1,
            languages=dict(sorted(found.items())) if is_multilingual else {},
            unsaid=tuple(sorted(unsaid - {-1})),
            blanks=(*_ids(tokenizer, " "), control["end"]),
            **control,
        )

    def ids(self, text: str) -> list[int]:
        return _ids(self.tokenizer, text)

    def text(self, ids: Sequence[int]) -> str:
        """Of the words among them."""
        return str(self.tokenizer.decode([number for number in ids if number < self.end], skip_special_tokens=True))

    def opening(self, language: str, task: str) -> list[int]:
        """What stands before a transcript."""
        if not self.languages:
            return [self.start]
        return [self.start, self.languages[language], self.translate if task == "translate" else self.transcribe]


_CONTROL: Final = {
    "start": "startoftranscript",
    "end": "endoftext",
    "transcribe": "transcribe",
    "translate": "translate",
    "before": "startofprev",
    "untimed": "notimestamps",
}


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _signs(tokenizer: Tokenizer) -> set[int]:
    """A dash or an apostrophe may stand within a word, and not before one."""
    found = {_ids(tokenizer, text)[0] for text in (" -", " '") if _ids(tokenizer, text)}
    for sign in (*_SIGNS, *_NOTES):
        for ids in (_ids(tokenizer, sign), _ids(tokenizer, f" {sign}")):
            if len(ids) == 1 or (ids and sign in _NOTES):
                found.add(ids[0])
    return found
