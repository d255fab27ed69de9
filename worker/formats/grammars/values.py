"""One argument's value where the format writes it as plain text between markers.

Readers take the text for JSON of the types that the parameter's schema allows, else for a string
(`worker.formats.conversion`); the rules here admit only text of which that is what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shared import exact
from worker.formats.enforceable import rooted
from worker.formats.grammars.guarded import exact_bounds, guarded
from worker.formats.grammars.lark import ANY_TEXT, Rules
from worker.formats.schemas import TYPES, Schema, branches, type_of

Mode = Literal["", "any", "plain"]

ALL_KINDS = frozenset(TYPES) - {"string"}
JSON_WORDS = ("true", "false", "null", "nan", "infinity")
_NAME = r"[A-Za-z_]\w*"
_OTHER = (
    rf"[^\s\x00-\x7f]{ANY_TEXT}"
    rf"|[\/~#<@$%&*=!?:;,|\\^`>]{ANY_TEXT}"
    rf"|\.\.?\/{ANY_TEXT}"
    rf"|(--?|- )[a-hj-mo-zA-HJ-MO-Z]{ANY_TEXT}"
)
# A text that is no JSON.
_NO_JSON = rf"({_NAME}([^\w]{ANY_TEXT})?|['(]{ANY_TEXT}|{_OTHER})"
_NUMBER = r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Markup:
    """Where a value stands: `end` ends it, it never contains any of `without`, and readers drop one `frame` at each
    end."""

    end: str
    without: tuple[str, ...] = ()
    frame: Literal["", "\n"] = ""

    @property
    def tags(self) -> tuple[str, ...]:
        """The markers that begin with a tag, each up to where its second one begins."""
        tags = (text[: text.find("<", 1)] if "<" in text[1:] else text for text in (self.end, *self.without))
        return tuple(dict.fromkeys(tag for tag in tags if len(tag) > 1 and tag.startswith("<")))

    @property
    def around(self) -> str:
        """A regular expression for the frame, which may be left out."""
        return r"\n?" if self.frame else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How readers take the text of one parameter.

    `text` says which plain text is a string: none; any; or (`plain`) what does not begin with one of `words` and begins
    unlike JSON. `kinds` are the other types that are read from JSON.
    """

    text: Mode = ""
    words: tuple[str, ...] = ()
    kinds: frozenset[str] = field(default=ALL_KINDS)


def value(rules: Rules, schema: Any, root: Schema, reading: Reading, markup: Markup) -> str:
    """A rule for the value and its end marker; empty when no valid value can be written."""
    literals: list[str] = []
    strings: list[Schema] = []
    others: list[Schema] = []
    for branch in branches(schema, root):
        if "enum" in branch:
            literals += _literals(branch["enum"], reading, markup)
        elif branch["type"] == "string":
            strings.append(branch)
        elif _kind(branch["type"]) in reading.kinds:
            others.append(branch)
    if strings and reading.text == "any":
        return rules.rule(" | ".join(_texts(rules, strings, reading, markup)))
    exact = [rules.literal(text) for text in dict.fromkeys(literals)]
    exact += [scalar(rules, branch, root, markup.tags) for branch in others]
    end = f"/{markup.around}/ " if markup.frame else ""
    options = [f"({' | '.join(dict.fromkeys(exact))}) {end}{rules.literal(markup.end)}"] if exact else []
    if strings and reading.text:
        options += _texts(rules, strings, reading, markup)
    if not options:
        return ""
    return rules.rule(f"{end}({' | '.join(options)})")


def scalar(rules: Rules, branch: Schema, root: Schema, markers: Sequence[str] = ()) -> str:
    """JSON by a schema of one type, without any of `markers` in its strings; numbers have no more digits than every
    reader keeps."""
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    if branch["type"] == "number" and not any(key in branch for key in bounds):
        return rules.terminal(f"/{_NUMBER}/")
    if branch["type"] == "integer":
        branch = {**branch, **exact_bounds(branch)}
    if markers and branch["type"] in ("string", "object", "array"):
        return rules.json(guarded(rooted(branch, root), markers))
    return rules.json(rooted(branch, root))


def _kind(kind: str) -> str:
    return "number" if kind == "integer" else kind


def _literals(values: Iterable[Any], reading: Reading, markup: Markup) -> list[str]:
    """How the values of an enumeration are written, those that can be."""
    out = []
    for item in values:
        if isinstance(item, str):
            out += [item] if _is_plain(item, reading, markup) else []
        elif _kind(type_of(item)) in reading.kinds:
            text = exact.dumps(item, ensure_ascii=False)
            out += [text] if not any(marker in text for marker in (markup.end, *markup.without)) else []
    return out


def _is_plain(text: str, reading: Reading, markup: Markup) -> bool:
    """Whether a reader takes the text as it stands for the string that it spells."""
    if not reading.text or any(marker in text for marker in (markup.end, *markup.without)):
        return False
    if markup.frame and text.strip(markup.frame) != text:
        return False
    if (never := _never(reading)) and re.fullmatch(never, text):
        return False
    return re.fullmatch(_content(reading), text) is not None


def _content(reading: Reading) -> str:
    return _NO_JSON if reading.text == "plain" else ANY_TEXT


def _never(reading: Reading) -> str:
    """The texts that are read as something else."""
    words = "|".join(reading.words)
    return rf"(?i:{words})([^\w]{ANY_TEXT})?" if words and reading.text == "plain" else ""


def _texts(rules: Rules, strings: Sequence[Schema], reading: Reading, markup: Markup) -> Sequence[str]:
    """One rule for each schema of a string."""
    never = _never(reading)
    out = []
    for branch in strings:
        for keyword in ("pattern", "format", "not", "if"):
            if keyword in branch:
                rules.drop(keyword)
        size = _size(branch, markup)
        content, lead, trail = _content(reading), "", ""
        if size:
            trail = markup.around
            lead = f"/{trail}/ " if reading.text == "any" and trail else ""
            content = f"{content}/ & /{size}" if reading.text != "any" else size
        out.append(lead + rules.until(markup.end, content, without=markup.without, never=never, trail=trail))
    return tuple(dict.fromkeys(out))


def _size(branch: Schema, markup: Markup) -> str:
    """A regular expression for text of the length that the schema asks for, without a frame at its ends."""
    low, high = branch.get("minLength", 0), branch.get("maxLength")
    low = low if isinstance(low, int) else 0
    if low <= 0 and not isinstance(high, int):
        return ""
    if not markup.frame:
        return f"(?s:.){{{low},{'' if high is None else high}}}"
    edge = r"[^\n]"
    inner = f"(?s:.){{{max(low - 2, 0)},{'' if high is None else max(high - 2, 0)}}}"
    if high == 0:
        return "()"
    if high == 1:
        return edge if low else f"({edge})?"
    two = f"{edge}{inner}{edge}"
    if low >= 2:
        return two
    return f"{edge}|{two}" if low else f"({edge}|{two})?"
