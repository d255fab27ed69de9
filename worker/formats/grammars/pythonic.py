"""Calls written as Python: `[name(key="text", other=[1, 2]), another()]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.request import ToolDefinition
from worker.formats.enforceable import rooted
from worker.formats.grammars.base import UnwritableError
from worker.formats.grammars.declared import declared
from worker.formats.grammars.lark import SPACE, Argument, Rules
from worker.formats.grammars.values import scalar
from worker.formats.schemas import Schema, branches

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_KEY = re.compile(r"[A-Za-z_]\w*")
_WORDS = {"boolean": ("True", "False"), "null": ("None",)}
_PLAIN = re.compile(r"[^'\\\x00-\x1f\x7f]*")
_QUOTED = r"'([^'\\\x00-\x1f\x7f]|\\[nrtbf'\x22\\]){{{low},{high}}}'"
# The escapes that mean the same in JSON and in Python.
_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}


@dataclass(frozen=True, slots=True)
class PythonicForm:
    """`lines`: one call on each line instead of a list. Values are JSON, which the readers take for Python, or Python's
    own words and single quotes where a whole argument is one."""

    lines: bool = False

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if not _NAME.fullmatch(tool.name):
            raise UnwritableError("its name cannot be written")
        root = dict(tool.parameters)
        properties, required = declared(rules, tool)
        items = []
        for key, schema in properties.items():
            with rules.inside(key):
                rule = _value(rules, schema, root) if _KEY.fullmatch(key) else ""
            if rule:
                items.append(Argument(rule=rules.rule(f"{rules.literal(key + '=')} {rule}"), required=key in required))
            elif key in required:
                raise UnwritableError(f"its argument `{key}` cannot be written")
            elif schema is not False:
                rules.warn(f"`{key}` of `{tool.name}` cannot be written and is left out")
        arguments = rules.arguments(items, separator=f'"," {SPACE}')
        return rules.rule(f'{rules.literal(tool.name + "(")} {arguments} ")"')

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        call = f"({' | '.join(calls)})"
        last = f"{SPACE} {rules.literal(end)}" if end else ""
        if self.lines:
            more = f" (/\\n/ {call})*" if parallel else ""
            return rules.rule(f"{SPACE} {call}{more} {last}")
        more = f' ("," {SPACE} {call})*' if parallel else ""
        return rules.rule(f'{SPACE} "[" {call}{more} "]" {last}')


def _value(rules: Rules, schema: Any, root: Schema) -> str:
    found = branches(schema, root)
    if not found:
        return ""
    options: list[str] = []
    for branch in found:
        kind = branch.get("type")
        if kind in ("number", "integer", "boolean", "null"):
            options.append(scalar(rules, branch, root))
        else:
            options.append(rules.json(rooted(branch, root), **_ESCAPES))
        options += [f'"{word}"' for word in _WORDS.get(str(kind), ())]
        options += _single_quoted(rules, branch)
    return f"({' | '.join(options)})"


def _single_quoted(rules: Rules, branch: Schema) -> list[str]:
    """Strings as Python prefers to write them."""
    if "enum" in branch:
        words = [word for word in branch["enum"] if isinstance(word, str) and _PLAIN.fullmatch(word)]
        return [rules.literal(f"'{word}'") for word in words]
    if branch["type"] != "string" or branch.keys() & {"pattern", "format"}:
        return []
    return [rules.terminal(f"/{_QUOTED.format(low=branch.get('minLength', 0), high=branch.get('maxLength', ''))}/")]
