"""What the entries of settings files may say: tables of options by name, each with its kind and its range. Who checks a
file and who loads a model read the same ones."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from shared.durations import parse_keep_alive
from shared.errors import ConfigError
from shared.nearest import meant

Kind = Literal["text", "whole", "number", "flag", "texts", "names", "keep_alive", "object"]

MOST_WHOLE: Final = (1 << 31) - 1  # what llama.cpp's server and the wire both hold
MOST_S: Final = 30 * 86_400.0
_SHOWN: Final = 80  # characters of a value in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Numbers lie between `least` and `most`, and whole ones are `among` some where there are any; texts are among
    `choices` where there are any, and are not empty where one `is_needed`. `texts` is a list of them, `names` an object
    of texts; a program's arguments may be numbers, too (`takes_numbers`). One that `is_secret` is never shown."""

    kind: Kind = "text"
    least: float = 0
    most: float = MOST_WHOLE
    among: tuple[int, ...] = ()
    choices: tuple[str, ...] = ()
    is_needed: bool = False
    takes_numbers: bool = False
    is_secret: bool = False
    note: str = ""

    def accepts(self, value: Any) -> bool:
        return _ACCEPTS[self.kind](self, value)

    @property
    def allowed(self) -> str:
        """For a message: `expected …`."""
        text = either([*filter(None, self.choices)]) if self.choices else _WORDS[self.kind]
        if self.among:
            text = either([*map(str, self.among)])
        elif self.kind in ("whole", "number"):
            text += f" from {self.least:g} to {_plain(self.most)}"
        return f"{text} ({self.note})" if self.note else text

    def fault(self, value: Any) -> str:
        """The value, which is not accepted, and what would be."""
        near = meant(value, self.choices) if isinstance(value, str) else ""
        shown = "(not shown)" if self.is_secret else _shown(value)
        return f"{shown}: expected {self.allowed}{near}"

    def read(self, text: str) -> Any:
        """What a command line's text stands for; the text itself where that is nothing of this kind."""
        try:
            return _READ[self.kind](text)
        except ValueError:
            return text


def _is_text(option: Option, value: Any) -> bool:
    is_chosen = not option.choices or value in option.choices
    return isinstance(value, str) and "\0" not in value and is_chosen and bool(value or not option.is_needed)


def _is_number(option: Option, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return is_number and option.least <= value <= option.most


def _is_whole(option: Option, value: Any) -> bool:
    return isinstance(value, int) and _is_number(option, value) and (not option.among or value in option.among)


def _are_texts(option: Option, value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        _is_text(option, each) or (option.takes_numbers and type(each) in (int, float)) for each in value
    )


def _are_names(option: Option, value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(option, word) for pair in value.items() for word in pair)


def _read_flag(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), text)


_ACCEPTS: Final[Mapping[Kind, Callable[[Option, Any], bool]]] = {
    "text": _is_text,
    "whole": _is_whole,
    "number": _is_number,
    "flag": lambda _, value: isinstance(value, bool),
    "texts": _are_texts,
    "names": _are_names,
    "keep_alive": lambda _, value: parse_keep_alive(value) is not None,
    "object": lambda _, value: isinstance(value, dict),
}
_WORDS: Final[Mapping[Kind, str]] = {
    "text": "a text",
    "whole": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "texts": "a list of texts",
    "names": "an object of texts",
    "keep_alive": 'seconds, a text like "5m", or "never"',
    "object": "an object",
}
_READ: Final[Mapping[Kind, Callable[[str], Any]]] = {
    "text": str,
    "whole": int,
    "number": float,
    "flag": _read_flag,
    "texts": json.loads,
    "names": json.loads,
    "keep_alive": str,
    "object": json.loads,
}


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def value_faults(where: str, table: Mapping[str, Option], given: Mapping[str, Any]) -> Iterator[str]:
    """One line for each value that cannot be meant, after the place where it stands. Names that the table lacks are
    left to others."""
    for name, value in _faulty(table, given):
        yield f"{where}: `{name}` {table[name].fault(value)}"


def _faulty(table: Mapping[str, Option], given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in given.items() if name in table and not table[name].accepts(value))


def unknown_names(where: str, table: Mapping[str, Option], given: Mapping[str, Any]) -> Iterator[str]:
    """One line for each name that the table lacks."""
    for name in given:
        if name not in table:
            yield f"{where}: unknown option {name!r}, expected {either(list(table))}{meant(name, table.keys())}"


def raise_first(lines: Iterator[str]) -> None:
    """Raises `ConfigError` with the first of them and, where there are more, the command that tells them all."""
    first, *others = [*lines] or [""]
    if first:
        more = f" ({len(others)} more: `mlx-gateway config check` tells them all)" if others else ""
        raise ConfigError(first + more)


def either(words: Sequence[str]) -> str:
    """`a, b or c`; `none` for none."""
    *first, last = words or ("none",)
    return f"{', '.join(first)} or {last}" if first else last


_CONTEXT: Final = Option(kind="whole", note="0: as much as there is room for")
# Of a server of llama.cpp, in `gguf_config.json` for all models and for one.
GGUF: Final[Mapping[str, Option]] = {
    "port": Option(kind="whole", most=65_535, note="0: a free one"),
    "auto_start": Option(kind="flag"),
    "default_args": Option(kind="texts", takes_numbers=True),
    "binary": Option(),
    "slots": Option(kind="whole", most=256, note="0: as many as there is room for"),
    "context_tokens": _CONTEXT,
    "file": Option(),
    "draft": Option(),
    "mmproj": Option(),
}
GGUF_WORDS: Final[Mapping[str, str]] = {"draft_model": "draft", "args": "default_args"}  # other words in models.json
_MS: Final = Option(kind="number", most=MOST_S * 1000)
_RATE: Final = Option(kind="number", most=1e12)
_TOKENS: Final = Option(kind="whole")
_ECHO: Final[Mapping[str, Option]] = {
    "step_ms": _MS,
    "prefill_tokens_per_s": _RATE,
    "load_ms": _MS,
    "context_tokens": _TOKENS,
    "slow_at_tokens": _TOKENS,
    "cache_tokens": _TOKENS,
    "disk_tokens": _TOKENS,
    "disk_tokens_per_s": _RATE,
    "identity": Option(),
}
# By engine: the `options` of an entry of `models.json`, and `--option` of a worker.
ENGINE_OPTIONS: Final[Mapping[str, Mapping[str, Option]]] = {
    "mlx": {"drafting": Option(choices=("auto", "always", "off")), "draft_model": Option()},
    "gguf": {**GGUF, **{word: GGUF[name] for word, name in GGUF_WORDS.items()}},
    "remote": {"entry": Option()},  # set by the host alone: a person says it all in remotes.json
    "embeddings": {},
    "transcription": {},
    "speech": {"voice": Option(), "voices": Option(kind="names")},
    "echo": _ECHO,
    "echo-streamed": _ECHO,
}


def option_text(value: Any) -> str:
    """As a command line says it; `read_options` reads it again."""
    return value if isinstance(value, str) else json.dumps(value)


def read_options(engine: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that an engine is loaded with, from a settings file or from a command line's texts. Raises
    `ConfigError` for one that it does not know, or that cannot be meant."""
    table = ENGINE_OPTIONS[engine]
    where = f"{engine} engine"
    values = {
        name: table[name].read(value) if isinstance(value, str) and name in table else value
        for name, value in given.items()
    }
    said = (f"{where}: option {name}={table[name].fault(value)}" for name, value in _faulty(table, values))
    raise_first(itertools.chain(unknown_names(where, table, values), said))
    return values
