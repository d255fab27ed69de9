"""Calls written as markup, values as plain text: see `worker.tool_calls.tagged` for how they are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.request import ToolDefinition
from worker.formats.grammars.base import UnwritableError
from worker.formats.grammars.declared import declared
from worker.formats.grammars.lark import SPACE, Argument, Rules
from worker.formats.grammars.values import ALL_KINDS, JSON_WORDS, LITERAL_WORDS, Markup, Reading, value
from worker.formats.schemas import Schema, branches, stated, stated_types, type_of

_QWEN_STRINGS = frozenset({"string", "str", "text", "varchar", "char", "enum"})
_PLAIN = re.compile(r"[^\s<>\"'&{}\[\]()=,]+")

# (rules, key, schema, root) -> a rule for the argument whole; empty when it cannot be written.
Write = Callable[[Rules, str, Any, Schema], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedForm:
    """`head` begins a call of the named tool and `tail` ends it. `gap` is the white space (a rule) between a call and
    the end of its region. `many`: a region may hold several calls. `alone`: how a tool is called that gets no
    arguments, where that differs."""

    head: Callable[[str], str]
    tail: str
    write: Write
    gap: str = SPACE
    many: bool = False
    alone: Callable[[str], str] | None = None

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if not _PLAIN.fullmatch(tool.name):
            raise UnwritableError("its name cannot be written")
        items = self._arguments(rules, tool)
        with_some = f"{rules.literal(self.head(tool.name))} {SPACE} {rules.arguments(items)}"
        with_some += f" {rules.literal(self.tail)}" if self.tail else ""
        if self.alone is None:
            return rules.rule(with_some)
        none = rules.literal(self.alone(tool.name))
        if not items:
            return rules.rule(none)
        at_least_one = f"{rules.literal(self.head(tool.name))} {SPACE} {rules.arguments(items, some=True)}"
        needed = any(item.required for item in items)
        return rules.rule(at_least_one if needed else f"{none} | {at_least_one}")

    def _arguments(self, rules: Rules, tool: ToolDefinition) -> list[Argument]:
        root = dict(tool.parameters)
        properties, required = declared(rules, tool)
        items = []
        for key, schema in properties.items():
            rule = self.write(rules, key, schema, root) if _PLAIN.fullmatch(key) else ""
            if rule:
                items.append(Argument(rule=rules.rule(f"{rule} {SPACE}"), required=key in required))
            elif key in required:
                raise UnwritableError(f"its argument `{key}` cannot be written")
            elif schema is not False:
                rules.warn(f"`{key}` of `{tool.name}` cannot be written and is left out")
        return items

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        call = f"({' | '.join(calls)})"
        if parallel and self.many:
            call = f"{call} ({SPACE} {call})*"
        return rules.rule(f"{SPACE} {call} {self.gap} {rules.literal(end)}")


def _written(
    opening: Callable[[str], Sequence[str]],
    reading: Callable[[Schema], Reading],
    markup: Markup,
    *,
    single: bool = False,
) -> Write:
    """`opening`: the texts before the value, white space allowed between them."""

    def write(rules: Rules, key: str, schema: Any, root: Schema) -> str:
        if schema is False:
            return ""
        rule = value(rules, schema, root, reading(stated(schema, root, single=single)), markup)
        if not rule:
            return ""
        return f" {SPACE} ".join(rules.literal(text) for text in opening(key)) + f" {rule}"

    return write


# How the parsers read a value, by the parameter's schema.


def _qwen(schema: Schema) -> Reading:
    kind = str(schema.get("type", "")).strip().lower()
    if not schema or kind in _QWEN_STRINGS:
        return Reading(text="any", words=("null",), kinds=frozenset({"null"}))
    if kind:
        return Reading(kinds=frozenset({"number" if kind == "integer" else kind, "null"}))
    return Reading(text="open", words=("null",), kinds=frozenset({"object", "array", "null"}))


def _glm(schema: Schema) -> Reading:
    if schema.get("type") == "string":
        return Reading(text="any", kinds=frozenset())
    return Reading(text="word", words=LITERAL_WORDS, quoted=True)


def _converted(schema: Schema) -> Reading:
    """MiniMax M2 and MiniCPM5: tried as each of the types that the schema names, string last."""
    kinds = stated_types(schema)
    nulls = ("null", "none", "nil") if "null" in kinds else ("null",)
    if kinds <= {"string", "null"}:
        return Reading(text="any", words=nulls, kinds=frozenset({"null"}))
    readable = frozenset("number" if kind == "integer" else kind for kind in kinds) | {"null"}
    words = (*LITERAL_WORDS, "nil", "yes", "no", "on", "off", "inf")
    return Reading(text="word" if "string" in kinds else "", words=words, kinds=readable & ALL_KINDS)


def _json_or_text(schema: Schema) -> Reading:
    return Reading(text="plain", words=JSON_WORDS, quoted=True)


# The forms.

QWEN3_CODER = TaggedForm(
    head=lambda name: f"<function={name}>",
    tail="</function>",
    write=_written(
        lambda key: (f"<parameter={key}>",),
        _qwen,
        Markup(end="</parameter>", without=("</tool_call>", "<tool_call>"), trim="newline"),
        single=True,
    ),
    gap="/\\n?/",
)


def _glm_write(prefix: str) -> Write:
    return _written(
        lambda key: (f"<{prefix}arg_key>{key}</{prefix}arg_key>", f"<{prefix}arg_value>"),
        _glm,
        Markup(end=f"</{prefix}arg_value>", without=(f"</{prefix}tool_call>", f"<{prefix}tool_call>")),
    )


GLM = TaggedForm(head=str, tail="", write=_glm_write(""))
LONGCAT = TaggedForm(
    head=str,
    tail="",
    write=_glm_write("longcat_"),
    alone=lambda name: f'{{"name": "{name}", "arguments": {{}}}}',
)

MINIMAX_M2 = TaggedForm(
    head=lambda name: f'<invoke name="{name}">',
    tail="</invoke>",
    write=_written(
        lambda key: (f'<parameter name="{key}">',),
        _converted,
        Markup(end="</parameter>", without=("</invoke>", "</minimax:tool_call>", "<minimax:tool_call>")),
    ),
    many=True,
)

MUSE_SPARK = TaggedForm(
    head=lambda name: f'<atem:invoke name="{name}">',
    tail="</atem:invoke>",
    write=_written(
        lambda key: (f'<atem:parameter name="{key}">',),
        _json_or_text,
        Markup(end="</atem:parameter>", without=("</atem:invoke>", "</atem:function_calls>", "<atem:function_calls>")),
    ),
    many=True,
)

_CDATA, _CDATA_END = "<![CDATA[", "]]>"


def _minicpm5_write(rules: Rules, key: str, schema: Any, root: Schema) -> str:
    """Text with an angle bracket in it stands in a CDATA section."""
    if schema is False:
        return ""
    reading = _converted(stated(schema, root))
    plain = value(rules, schema, root, reading, Markup(end="</param>", without=("<", "&", "</function>")))
    strings = [branch for branch in branches(schema, root) if branch.get("type") == "string"]
    wrapped = ""
    if strings and reading.text:
        markup = Markup(end=f"{_CDATA_END}</param>", without=(_CDATA_END, "</param>", "</function>"), trim="none")
        only = replace(reading, kinds=frozenset[str]())
        wrapped = f"{rules.literal(_CDATA)} {value(rules, {'anyOf': strings}, root, only, markup)}"
    opening = rules.literal(f'<param name="{key}">')
    options = [option for option in (plain, wrapped) if option]
    if not options:
        return ""
    return f"{opening} ({' | '.join(options)})"


MINICPM5 = TaggedForm(head=lambda name: f'"{name}">', tail="", write=_minicpm5_write)

_K3_END = "<|close|>argument<|sep|>"
_K3_TYPES = {"number": ("number", "integer"), "integer": ("number", "integer")}


def _kimi_k3_write(rules: Rules, key: str, schema: Any, root: Schema) -> str:
    """Every argument names its type: strings are text as it stands, all else is JSON."""
    markup = Markup(end=_K3_END, without=("<|open|>", "<|close|>", "<|sep|>"), trim="none")
    by_kind: dict[str, list[Schema]] = {}
    for branch in branches(schema, root):
        for item in branch.get("enum", ()):
            by_kind.setdefault(type_of(item), []).append({"enum": [item]})
        if "enum" not in branch:
            by_kind.setdefault(branch["type"], []).append(branch)
    options = []
    for kind, found in by_kind.items():
        reading = Reading(text="any") if kind == "string" else Reading()
        rule = value(rules, {"anyOf": found}, root, reading, markup)
        for word in _K3_TYPES.get(kind, (kind,)):
            opening = f'<|open|>argument key="{key}" type="{word}"<|sep|>'
            options += [f"{rules.literal(opening)} {rule}"] if rule else []
    return f"({' | '.join(options)})" if options else ""


class KimiK3Form(TaggedForm):
    """Calls are counted."""

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if not _PLAIN.fullmatch(tool.name):
            raise UnwritableError("its name cannot be written")
        head = rules.literal(f'<|open|>call tool="{tool.name}" index="')
        head += " /[0-9]{1,3}/ " + rules.literal('"<|sep|>')
        arguments = rules.arguments(self._arguments(rules, tool))
        return rules.rule(f"{head} {SPACE} {arguments} {rules.literal(self.tail)}")


KIMI_K3 = KimiK3Form(head=str, tail="<|close|>call<|sep|>", write=_kimi_k3_write, many=True)
