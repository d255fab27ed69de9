"""Calls written as `call:NAME{key:value,…}` with a marker for quotes: Gemma 4 and FunctionGemma."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared import exact
from shared.request import ToolDefinition
from worker.formats.grammars.base import UnwritableError
from worker.formats.grammars.declared import declared, warn_inside
from worker.formats.grammars.lark import SPACE, Argument, Rules
from worker.formats.grammars.values import Markup, Reading, scalar, value
from worker.formats.schemas import Schema, branches

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[\w-]+")
_ANY_KEY = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class BraceForm:
    """`quote` stands before and after a string; a string never contains `without`."""

    quote: str
    without: tuple[str, ...]

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if not _NAME.fullmatch(tool.name):
            raise UnwritableError("its name cannot be written")
        root = dict(tool.parameters)
        properties, required = declared(rules, tool)
        schema = {"type": "object", "properties": properties, "required": sorted(required)}
        body = self._object(rules, schema, root)
        if not body:
            raise UnwritableError("a required argument cannot be written")
        return rules.rule(f"{rules.literal(f'call:{tool.name}')} {body}")

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        return rules.rule(f"{SPACE} ({' | '.join(calls)}) {SPACE} {rules.literal(end)}")

    def _value(self, rules: Rules, schema: Any, root: Schema) -> str:
        """The name of a rule for a value; empty when none can be written. A schema may contain itself."""
        key = f"{self.quote}:{exact.dumps(schema, sort_keys=True)}"
        name, is_new = rules.reserve(key)
        if is_new:
            options = [rule for branch in branches(schema, root) if (rule := self._branch(rules, branch, root))]
            rules.define(name, " | ".join(dict.fromkeys(options)) or "/\\x00/")
            if not options:
                return ""
        return name

    def _branch(self, rules: Rules, branch: Schema, root: Schema) -> str:
        if "enum" in branch:
            return " | ".join(filter(None, (self._exact(rules, item) for item in branch["enum"])))
        match branch["type"]:
            case "string":
                markup = Markup(end=self.quote, without=self.without)
                return f"{rules.literal(self.quote)} {value(rules, branch, root, Reading(text='any'), markup)}"
            case "object":
                return self._object(rules, branch, root)
            case "array":
                return self._array(rules, branch, root)
            case "integer" | "number" | "boolean" | "null":
                return scalar(rules, branch, root)
            case _:
                return ""

    def _exact(self, rules: Rules, item: Any) -> str:
        text = self._spelled(item)
        return rules.literal(text) if text else ""

    def _spelled(self, item: Any) -> str:
        """A value of an enumeration; empty when it cannot be written."""
        if isinstance(item, str):
            banned = any(text in item for text in (self.quote, *self.without))
            return "" if banned else f"{self.quote}{item}{self.quote}"
        return "" if isinstance(item, list | dict) else exact.dumps(item)

    def _array(self, rules: Rules, branch: Schema, root: Schema) -> str:
        warn_inside(rules, branch)
        items = branch.get("items", {})
        with rules.inside("[]"):
            item = self._value(rules, {} if isinstance(items, list) else items, root)
        low, high = branch.get("minItems", 0), branch.get("maxItems")
        if not item or high == 0:
            return '"[" "]"' if not low else ""
        more = f' ("," {item}){{{max(low - 1, 0)},{"" if high is None else high - 1}}}' if high != 1 else ""
        some = f"{item}{more}"
        return f'"[" {some} "]"' if low else f'"[" ({some})? "]"'

    def _object(self, rules: Rules, branch: Schema, root: Schema) -> str:
        """The declared properties; any of the right type when none is declared."""
        warn_inside(rules, branch)
        properties = branch.get("properties") or {}
        required = branch.get("required") or ()
        others = branch.get("additionalProperties", True)
        if not properties and not required:
            item = self._value(rules, {} if others is True else others, root) if others is not False else ""
            pair = f'{_ANY_KEY} ":" {item}'
            return f'"{{" ({pair} ("," {pair})*)? "}}"' if item else '"{" "}"'
        items = []
        for key, schema in {**{key: {} for key in required}, **properties}.items():
            with rules.inside(key):
                rule = self._value(rules, schema, root) if _KEY.fullmatch(key) else ""
            if rule:
                pair = rules.rule(f"{rules.literal(f'{key}:')} {rule}")
                items.append(Argument(rule=pair, required=key in required))
            elif key in required:
                return ""
            elif schema is not False:
                rules.warn(f"`{key}` cannot be written and is left out")
        arguments = rules.arguments(items, separator='","')
        return f'"{{" {arguments} "}}"'
