"""Calls whose arguments are one JSON object, in an object with the name or behind a header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared.request import ToolDefinition
from worker.formats.enforceable import rooted
from worker.formats.families import Headed, Objects
from worker.formats.grammars.base import UnwritableError
from worker.formats.grammars.lark import SPACE, Rules
from worker.formats.harmony import CONSTRAIN, MESSAGE
from worker.formats.schemas import Schema

_ANY_OBJECT: Schema = {"type": "object"}


def _arguments(tool: ToolDefinition) -> tuple[Schema, Schema]:
    """The schema of the arguments, and the definitions that it refers to from the top of its document."""
    parameters = dict(tool.parameters) or _ANY_OBJECT
    schema = rooted(parameters, parameters)
    return {key: value for key, value in schema.items() if key != "$defs"}, schema.get("$defs", {})


def _object(rules: Rules, tool: ToolDefinition, shape: Objects) -> str:
    """A call as one JSON object."""
    arguments, definitions = _arguments(tool)
    if shape.keyed:
        properties: Schema = {tool.name: arguments}
    else:
        number: Schema = {shape.id: {"type": "string", "pattern": "^[0-9]{1,3}$"}} if shape.id else {}
        properties = {**number, shape.name: {"const": tool.name}, shape.arguments: arguments}
    return rules.json(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
            "$defs": definitions,
        }
    )


def _arguments_only(rules: Rules, tool: ToolDefinition) -> str:
    arguments, definitions = _arguments(tool)
    return rules.json({**arguments, "$defs": definitions})


@dataclass(frozen=True, slots=True)
class ObjectsForm:
    """One object in each region, or a list of them."""

    shape: Objects

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        return _object(rules, tool, self.shape)

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        call = f"({' | '.join(calls)})"
        if not self.shape.listed:
            return rules.rule(f"{SPACE} {call} {_end(rules, end)}")
        objects = _list(call, parallel=parallel)
        if self.shape.fenced:
            return rules.rule(f"{SPACE} {rules.literal('```json')} {objects} {SPACE} {rules.literal('```')}")
        return rules.rule(f"{objects} {_end(rules, end)}")


def _list(call: str, *, parallel: bool) -> str:
    more = f' ("," {SPACE} {call})*' if parallel else ""
    return f'{SPACE} "[" {SPACE} {call}{more} {SPACE} "]"'


def _end(rules: Rules, end: str) -> str:
    return f"{SPACE} {rules.literal(end)}" if end else ""


@dataclass(frozen=True, slots=True)
class HeadedForm:
    """`start` is the region's, with which the first call may begin."""

    shape: Headed
    start: str

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if re.search(r"[\s<>{}`\"]", tool.name):
            raise UnwritableError("its name cannot be written")
        shape = self.shape
        begin = shape.begin.removeprefix(self.start)
        head = [rules.literal(begin)] if begin else []
        if shape.identified:
            head += ["/[0-9a-z]{1,16}/", rules.literal(shape.identified)]
        head.append(rules.literal(tool.name))
        if shape.counted:
            head += ['":"', "/[0-9]{1,3}/"]
        head.append(rules.literal(shape.middle))
        return rules.rule(f"{' '.join(head)} {SPACE} {_arguments_only(rules, tool)} {SPACE} {rules.literal(shape.end)}")

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        call = f"({' | '.join(calls)})"
        again = f"{rules.literal(start)} {call}" if self.shape.begin == start else call
        more = f" ({SPACE} {again})*" if parallel else ""
        return rules.rule(f"{SPACE} {call}{more} {_end(rules, end)}")


class MistralForm:
    """Newer models write a header, those whose vocabulary has no marker for it a list of objects. The answer ends
    with its calls."""

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if not rules.is_token("[ARGS]"):
            return _object(rules, tool, Objects())
        if not re.fullmatch(r"[\w-]+", tool.name):
            raise UnwritableError("its name cannot be written")
        return rules.rule(f"{rules.literal(tool.name + '[ARGS]')} {SPACE} {_arguments_only(rules, tool)}")

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        call = f"({' | '.join(calls)})"
        if not rules.is_token("[ARGS]"):
            return rules.rule(_list(call, parallel=parallel))
        more = f" ({rules.literal(start)}? {call})*" if parallel else ""
        return rules.rule(f"{call}{more}")


class HarmonyForm:
    """A message to the tool, which ends the answer: the end token that may follow is its own end."""

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if not re.fullmatch(r"[^\s<>]+", tool.name):
            raise UnwritableError("its name cannot be written")
        kind = f" {CONSTRAIN}json" if rules.is_token(CONSTRAIN) else " json"
        begun = rules.literal(f"{tool.name}{kind}{MESSAGE}")
        return rules.rule(f"{begun} {_arguments_only(rules, tool)}")

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        return rules.rule(" | ".join(calls))
