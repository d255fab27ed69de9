"""Calls whose arguments are one JSON object, in an object with the name or behind a header."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shared.request import ToolDefinition
from worker.formats.enforceable import rooted
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


def _object(rules: Rules, tool: ToolDefinition) -> str:
    """A call as one JSON object."""
    arguments, definitions = _arguments(tool)
    return rules.json(
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
            "$defs": definitions,
        }
    )


def _arguments_only(rules: Rules, tool: ToolDefinition) -> str:
    arguments, definitions = _arguments(tool)
    return rules.json({**arguments, "$defs": definitions})


class JsonForm:
    """One object in each region."""

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        return _object(rules, tool)

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        return rules.rule(f"{SPACE} ({' | '.join(calls)}) {SPACE} {rules.literal(end)}")


class KimiK2Form:
    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        name = rules.literal(f"<|tool_call_begin|>functions.{tool.name}:")
        return rules.rule(
            f"{name} /[0-9]{{1,3}}/ {rules.literal('<|tool_call_argument_begin|>')} {SPACE} "
            f"{_arguments_only(rules, tool)} {SPACE} {rules.literal('<|tool_call_end|>')}"
        )

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        call = f"({' | '.join(calls)})"
        more = f" ({SPACE} {call})*" if parallel else ""
        return rules.rule(f"{SPACE} {call}{more} {SPACE} {rules.literal(end)}")


class MistralForm:
    """Newer models write a header, those whose vocabulary has no marker for it a list of objects. The answer ends
    with its calls."""

    def call(self, rules: Rules, tool: ToolDefinition) -> str:
        if not rules.is_token("[ARGS]"):
            return _object(rules, tool)
        if not re.fullmatch(r"[\w-]+", tool.name):
            raise UnwritableError("its name cannot be written")
        return rules.rule(f"{rules.literal(tool.name + '[ARGS]')} {SPACE} {_arguments_only(rules, tool)}")

    def region(self, rules: Rules, calls: Sequence[str], *, start: str, end: str, parallel: bool) -> str:
        call = f"({' | '.join(calls)})"
        if not rules.is_token("[ARGS]"):
            more = f' ("," {SPACE} {call})*' if parallel else ""
            return rules.rule(f'{SPACE} "[" {SPACE} {call}{more} {SPACE} "]"')
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
