"""What a template is told of a request's tool choice: that the next answer must not call, or must.

Templates that read it (Kimi K3's) write it behind the last message. It holds for one answer, so the generation header
alone is rendered with it: what stands before stays the beginning of every later prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from shared.request import GenerateRequest

VARIABLE = "tool_choice"
# OpenAI's words, for which such templates are written; a certain tool is one of those that must be called.
_WORDS = {"none": "none", "any": "required", "tool": "required"}


def told_choice(request: GenerateRequest, read: Collection[str], own: Mapping[str, Any]) -> str:
    """The word for it; empty where there is nothing to tell. `read` are the variables that the template reads, `own`
    those that the client has set itself."""
    if not request.tools or VARIABLE not in read or VARIABLE in own:
        return ""
    return _WORDS.get(request.tool_choice.mode, "")
