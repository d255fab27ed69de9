"""From a request's options to the variables that a chat template reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shared.request import RESERVED_VARIABLES, ReasoningOptions
from worker.prompt.efforts import Efforts
from worker.prompt.template import Template

# Switches by which templates keep earlier reasoning in the prompt, and the value that keeps it.
_KEEP_REASONING: dict[str, Any] = {
    "preserve_thinking": True,
    "keep_past_thinking": True,
    "clear_thinking": False,
    "drop_thinking": False,
    "truncate_history_thinking": False,
}

# The efforts that a budget of fewer tokens means, where a template knows no budget.
_EFFORT_BUDGETS = (("low", 4096), ("medium", 16384), ("high", sys.maxsize))


class Switches:
    """`efforts` are the words for effort that the template takes."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self.efforts = Efforts(template)

    def of(self, options: ReasoningOptions, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Only what the template reads, nothing for what is left open. `variables` are the client's own, which win."""
        wanted = dict(_KEEP_REASONING)
        if options.enabled is not None:
            wanted |= {"enable_thinking": options.enabled, "thinking": options.enabled}
        if options.budget_tokens is not None:
            wanted["thinking_budget"] = options.budget_tokens
        elif options.enabled is False:
            wanted["thinking_budget"] = 0
        wanted |= dict.fromkeys(self.efforts.variables, self._effort(options))
        wanted |= {name: value for name, value in (variables or {}).items() if name not in RESERVED_VARIABLES}
        if self._template.is_python:
            return {name: value for name, value in wanted.items() if name == "enable_thinking"}
        for name in self.efforts.variables:
            word = wanted[name]
            wanted[name] = self.efforts.nearest(name, word) if isinstance(word, str) and word else None
        return {name: value for name, value in wanted.items() if name in self._template.variables and value is not None}

    def unheeded(self, options: ReasoningOptions, variables: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """What of these options the template has no variable for, so that the model never hears of it."""
        told, budget = self.of(options, variables), options.budget_tokens
        left_out = [(f"effort {options.effort!r}", replace(options, effort=""))]
        if options.enabled is False and options.is_asked:
            left_out.append(("not to reason", replace(options, enabled=None)))
        elif options.enabled is not False:
            left_out.append((f"a reasoning budget of {budget} tokens", replace(options, budget_tokens=None)))
        return tuple(
            f"the model's template cannot tell it {what}"
            for what, without in left_out
            if without != options and self.of(without, variables) == told
        )

    def _effort(self, options: ReasoningOptions) -> str:
        """For templates that know effort as the only switch: the least when reasoning is off, else by its budget."""
        is_only_switch = not {"enable_thinking", "thinking", "thinking_budget"} & self._template.variables
        if is_only_switch and options.enabled is False and (not options.effort or "none" in self.efforts.words):
            return "none"
        if options.effort or not is_only_switch:
            return options.effort
        budget = options.budget_tokens
        if budget is not None:
            return next(effort for effort, most in _EFFORT_BUDGETS if budget < most)
        return "medium" if options.enabled and "none" in self.efforts.words else ""
