"""Tools as a template takes them: as they are, where it refuses one simplified, and in the last resort in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared import exact
from shared.errors import InvalidRequestError
from worker.prompt.template import Template, ToolDict
from worker.prompt.tool_schemas import simplified

_MESSAGES: tuple[dict[str, Any], ...] = ({"role": "system", "content": "."}, {"role": "user", "content": "."})


class ToolShow:
    """Thread-safe. `has_system` says whether the template has a place for a system message."""

    def __init__(self, template: Template, *, has_system: bool) -> None:
        self._template = template
        self._messages = _MESSAGES if has_system else _MESSAGES[1:]

    def fitted(self, tools: Sequence[ToolDict], switches: Mapping[str, Any]) -> tuple[list[ToolDict], tuple[str, ...]]:
        """(the tools as the template takes them, the names of those that had to be simplified)"""
        if not tools or self._takes(tools, switches) or not self._takes((), switches):
            return list(tools), ()
        shown, changed = [], []
        for tool in tools:
            form = next((form for form in _forms(tool) if self._takes([form], switches)), tool)
            shown.append(form)
            if form is not tool:
                changed.append(str(tool["function"]["name"]))
        return shown, tuple(changed)

    def _takes(self, tools: Sequence[ToolDict], switches: Mapping[str, Any]) -> bool:
        try:
            self._template.render(self._messages, tools, switches, header=True)
        except InvalidRequestError:
            return False
        return True


def _forms(tool: ToolDict) -> list[ToolDict]:
    function = tool["function"]
    parameters = function["parameters"]
    words = f"{function['description']}\nParameters: {exact.dumps(parameters, ensure_ascii=False)}"
    bare = {"description": words, "parameters": {"type": "object", "properties": {}, "required": []}}
    return [
        tool,
        ToolDict({**tool, "function": {**function, "parameters": simplified(parameters)}}),
        ToolDict({**tool, "function": {**function, **bare}}),
    ]
