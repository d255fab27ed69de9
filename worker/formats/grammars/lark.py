"""Rules of one grammar in llguidance's Lark dialect, written piece by piece.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import llguidance

from shared import exact
from worker.formats.unenforced import Unenforced, joined, warnings_of

# At most one space, or a line break with indentation: a weak model may otherwise never come to an end.
_JSON_OPTIONS = {"whitespace_pattern": "[ ]?|\\n[ \\t]{0,16}"}
# The same as it stands in a grammar, and what older llguidances, which do not know it, have instead: as `json.dumps`
# writes it.
WHITESPACE = json.dumps(_JSON_OPTIONS)[1:-1]
FIXED_WHITESPACE = json.dumps({"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "})[1:-1]
# Rules that remember which arguments were written have a bit for each.
_MAX_UNORDERED = 64

SPACE = "/[ \\n]{0,2}/"
ANY_TEXT = "(?s:.*)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """`rule` matches the argument whole, with its name and every marker."""

    rule: str
    required: bool


class Rules:
    """The rules written so far. Equal rules are written once."""

    def __init__(self, tokenizer: llguidance.LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._names: dict[str, str] = {}
        self._lines: list[str] = []
        self._warnings: dict[str, None] = {}
        self._unenforced: list[Unenforced] = []
        self._tool = self._path = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the rules do not enforce."""
        return (*warnings_of(self._unenforced), *self._warnings)

    def warn(self, text: str) -> None:
        self._warnings[text] = None

    def drop(self, keyword: str) -> None:
        """Warn that what the keyword says at this place is not enforced."""
        self._unenforced.append(Unenforced(keyword, self._path, self._tool))

    @contextmanager
    def inside(self, step: str = "", *, tool: str = "") -> Iterator[None]:
        """What is written meanwhile belongs to this tool, or to a property (`[]`: the items) of what it belonged to."""
        before = self._tool, self._path
        self._tool = tool or self._tool
        self._path = joined(self._path, step) if step else self._path
        try:
            yield
        finally:
            self._tool, self._path = before

    def text(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join([f"start: {start}", *self._lines, ""])

    def rule(self, body: str) -> str:
        """The name of a rule that matches `body`."""
        return self._named("r", "", body)

    def reserve(self, key: str) -> tuple[str, bool]:
        """A name for a rule that may refer to itself, and whether it is new: then `define` it."""
        is_new = key not in self._names
        return self._names.setdefault(key, f"n{len(self._names)}"), is_new

    def define(self, name: str, body: str) -> None:
        self._lines.append(f"{name}: {body}")

    def terminal(self, body: str) -> str:
        """The name of a lexeme: it is matched as one regular expression."""
        return self._named("T", "", body)

    def _named(self, prefix: str, options: str, body: str) -> str:
        key = prefix + options + ":" + body
        if key not in self._names:
            self._names[key] = f"{prefix}{len(self._names)}"
            self._lines.append(f"{self._names[key]}{options}: {body}")
        return self._names[key]

    def json(self, schema: dict[str, Any], **options: str) -> str:
        """JSON that fits the schema; `options` are llguidance's own (`x-guidance`)."""
        return self.rule(f"%json {exact.dumps({**schema, 'x-guidance': {**_JSON_OPTIONS, **options}})}")

    def literal(self, text: str) -> str:
        """Exactly this text. What is a token of its own in the vocabulary is named by id: as text, llguidance would
        match it only where it is spelled in pieces."""
        parts: list[str] = []
        plain: list[int] = []
        for token in self._tokenizer.tokenize_str(text, parse_special=True):
            if self._tokenizer.is_special_token(token):
                parts += [*self._plain(plain), f"<[{token}]>"]
                plain = []
            else:
                plain.append(token)
        return " ".join([*parts, *self._plain(plain)]) or '""'

    def optional(self, marker: str) -> str:
        """The marker, which may be missing, perhaps behind white space."""
        return f"({SPACE} {self.literal(marker)})?" if marker else ""

    def _plain(self, tokens: list[int]) -> list[str]:
        return [json.dumps(self._tokenizer.decode_str(tokens))] if tokens else []

    def until(
        self, marker: str, content: str = ANY_TEXT, *, without: Sequence[str] = (), never: str = "", trail: str = ""
    ) -> str:
        """Text and the marker that ends it. `content` and `trail` are regular expressions: the text, which contains
        neither the marker nor any of `without` and is not whole what `never` matches, and what may follow it."""
        text = self._content(content, (marker, *without), never)
        if trail:
            text = self.terminal(f"{text} /{trail}/")
        first = self._tokenizer.tokenize_str(marker, parse_special=True)[0]
        if self._tokenizer.is_special_token(first):
            return self.rule(f"{text} {self.literal(marker)}")
        # A lexeme takes all it can, its end marker too, unless it is told to stop at the first that fits.
        return self._named("r", "[lazy]", self.terminal(f"{text} {json.dumps(marker)}"))

    def free(self, *without: str) -> str:
        """Any text that contains none of these."""
        return self._content(ANY_TEXT, without, "")

    def unlike_call(self) -> str:
        """Any text that does not begin as a call without a marker does."""
        return self.terminal(rf"/(\s*([^\s{{\[]{ANY_TEXT})?)/")

    def _content(self, content: str, without: Sequence[str], never: str) -> str:
        banned = "|".join(escaped(text) for text in dict.fromkeys(without) if text)
        body = f"/{content}/"
        if content != ANY_TEXT:
            body += f" & /{ANY_TEXT}/"
        if banned:
            body += f" & ~/{ANY_TEXT}({banned}){ANY_TEXT}/"
        if never:
            body += f" & ~/{never}/"
        return self.terminal(body)

    def is_token(self, text: str) -> bool:
        """Whether the vocabulary has a token of its own for this marker."""
        tokens = self._tokenizer.tokenize_str(text, parse_special=True)
        return len(tokens) == 1 and bool(self._tokenizer.is_special_token(tokens[0]))

    def arguments(self, items: Sequence[Argument], *, separator: str = "", some: bool = False) -> str:
        """The arguments, each at most once, the required ones always, in any order (in the order given when there
        are too many to count). `some`: at least one."""
        if not items:
            return '""'
        if len(items) > _MAX_UNORDERED:
            return self._in_order(items, separator, some)
        done = [f"bit_set({index})" for index, item in enumerate(items) if item.required]
        condition = done[0] if done else "true"
        for other in done[1:]:
            condition = f"and({condition}, {other})"
        more = f"p{len(self._lines)}"
        following = f"{separator} " if separator else ""
        lines = [f'{more}::_: "" %if {condition}']
        lines += [
            f"  | {following}{item.rule} {more}::set_bit({index}) %if bit_clear({index})"
            for index, item in enumerate(items)
        ]
        self._lines += lines
        if not separator and not some:
            return f"{more}::0x0"
        first = [f"{item.rule} {more}::{1 << index:#x}" for index, item in enumerate(items)]
        return self.rule(" | ".join(first if done or some else ['""', *first]))

    def _in_order(self, items: Sequence[Argument], separator: str, some: bool) -> str:
        """`after` matches the arguments from an index on when one was written before, `rest` when none was."""
        after, rest = '""', "" if some else '""'
        for item in reversed(items):
            written = self.rule(f"{separator} {item.rule} {after}")
            first = f"{item.rule} {after}"
            rest = self.rule(first if item.required or not rest else f"{first} | {rest}")
            after = written if item.required else self.rule(f"{written} | {after}")
        return rest


def escaped(text: str) -> str:
    """The text as a regular expression between slashes."""
    return "".join(f"\\{c}" if c.isascii() and not c.isalnum() and c not in "_<> \n" else c for c in text).replace(
        "\n", "\\n"
    )
