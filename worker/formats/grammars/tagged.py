"""Calls written as markup, values as plain text: see `worker.formats.readers.tagged` for how they are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.request import ToolDefinition
from worker.formats.conversion import TEXT, readable
from worker.formats.families import Family, Tagged
from worker.formats.grammars.base import UnwritableError
from worker.formats.grammars.declared import declared
from worker.formats.grammars.lark import SPACE, Argument, Rules
from worker.formats.grammars.values import JSON_WORDS, Markup, Reading, value
from worker.formats.schemas import Schema, branches, type_of, types

_PLAIN = re.compile(r"[^\s<>\"'&{}\[\]()=,]+")
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
# What a typed tag says of a value, by its JSON type.
_TYPED: dict[str, Callable[[str], Sequence[str]]] = {
    "type": lambda kind: {"number": ("number", "integer"), "integer": ("number", "integer")}.get(kind, (kind,)),
    "string": lambda kind: ("true" if kind == "string" else "false",),
}


@dataclass(frozen=True, slots=True)
class TaggedForm:
    """Any of the families whose shape is `Tagged`."""

    family: Family
    shape: Tagged

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if not _PLAIN.fullmatch(tool.name):
            raise UnwritableError("its name cannot be written")
        items = self._arguments(rules, tool)
        head, tail = self._head(rules, tool.name), self.shape.call_end
        end = f" {rules.literal(tail)}" if tail else ""
        if not self.shape.alone:
            return rules.rule(f"{head} {SPACE} {rules.arguments(items)}{end}")
        none = rules.literal(self.shape.alone.format(name=tool.name))
        if not items:
            return rules.rule(none)
        some = f"{head} {SPACE} {rules.arguments(items, some=True)}{end}"
        needed = any(item.required for item in items)
        return rules.rule(some if needed else f"{none} | {some}")

    def _head(self, rules: Rules, name: str) -> str:
        call = self.shape.call
        if call is None:
            return rules.literal(name)
        if call.kind:  # calls are counted
            before, after = call.write(name, "\0").split("\0")
            return f"{rules.literal(before)} /[0-9]{{1,3}}/ {rules.literal(after)}"
        return rules.literal(call.write(name).removeprefix(self.family.start))

    def _arguments(self, rules: Rules, tool: ToolDefinition) -> list[Argument]:
        root = dict(tool.parameters)
        properties, required = declared(rules, tool)
        items = []
        for key, schema in properties.items():
            with rules.inside(key):
                rule = self._argument(rules, key, schema, root) if _PLAIN.fullmatch(key) else ""
            if rule:
                items.append(Argument(rule=rules.rule(f"{rule} {SPACE}"), required=key in required))
            elif key in required:
                raise UnwritableError(f"its argument `{key}` cannot be written")
            elif schema is not False:
                rules.warn(f"`{key}` of `{tool.name}` cannot be written and is left out")
        return items

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        call = f"({' | '.join(calls)})"
        if parallel and self.shape.many:
            call = f"{call} ({SPACE} {call})*"
        return rules.rule(f"{SPACE} {call} {SPACE} {rules.literal(end)}")

    def _argument(self, rules: Rules, key: str, schema: Any, root: Schema) -> str:
        """A rule for the argument whole; empty when it cannot be written."""
        if schema is False:
            return ""
        if self.shape.key.kind:
            return self._typed(rules, key, schema, root)
        opening = f"{rules.literal(self.shape.key.write(key))}"
        if self.shape.value:
            opening += f" {SPACE} {rules.literal(self.shape.value)}"
        reading = reading_of(schema, root, self.shape)
        options = [value(rules, schema, root, reading, self._markup(plain=self.shape.cdata))]
        if self.shape.cdata and reading.text:
            options.append(self._section(rules, schema, root, reading))
        written = [option for option in options if option]
        return f"{opening} ({' | '.join(written)})" if written else ""

    def _markup(self, *, plain: bool = False) -> Markup:
        """What a value must not spell. Text that a family puts in CDATA sections (`plain`: text outside) has no angle
        bracket."""
        if plain:
            return Markup(end=self.shape.value_end, without=("<", "&"), frame="")
        region = (self.family.start, self.family.end, self.shape.call_end)
        tags = (self.shape.key.opening, *(text for text in region if text))
        return Markup(end=self.shape.value_end, without=tuple(dict.fromkeys(tags)), frame=self.shape.frame)

    def _section(self, rules: Rules, schema: Any, root: Schema, reading: Reading) -> str:
        """Text in a CDATA section."""
        strings = [branch for branch in branches(schema, root) if branch.get("type") == "string"]
        if not strings:
            return ""
        end = f"{_CDATA_END}{self.shape.value_end}"
        without = (_CDATA_END, self.shape.value_end, self.family.end)
        markup = Markup(end=end, without=without, frame="")
        text = value(rules, {"anyOf": strings}, root, replace(reading, kinds=frozenset[str]()), markup)
        return f"{rules.literal(_CDATA)} {text}"

    def _typed(self, rules: Rules, key: str, schema: Any, root: Schema) -> str:
        """Every argument says its type: strings are text as it stands, all else is JSON."""
        by_kind: dict[str, list[Schema]] = {}
        for branch in branches(schema, root):
            for item in branch.get("enum", ()):
                by_kind.setdefault(type_of(item), []).append({"enum": [item]})
            if "enum" not in branch:
                by_kind.setdefault(branch["type"], []).append(branch)
        options = []
        for kind, found in by_kind.items():
            reading = Reading(text="any", kinds=frozenset()) if kind == "string" else Reading()
            rule = value(rules, {"anyOf": found}, root, reading, self._markup())
            for word in _TYPED[self.shape.key.kind](kind):
                options += [f"{rules.literal(self.shape.key.write(key, word))} {rule}"] if rule else []
        return f"({' | '.join(options)})" if options else ""


def reading_of(schema: Any, root: Schema, shape: Tagged) -> Reading:
    """How readers take the text of an argument with this schema."""
    kinds = readable(types(schema, root), shape.unsaid)
    if kinds <= TEXT:
        return Reading(text="any", kinds=frozenset())
    others = frozenset("number" if kind == "integer" else kind for kind in kinds - TEXT)
    return Reading(text="plain" if kinds >= TEXT else "", words=(*JSON_WORDS, "none"), kinds=others)
