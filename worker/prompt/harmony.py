"""Earlier answers in the harmony format, with their reasoning and the words before a call.

Its templates drop reasoning once a final message followed, end an answer otherwise while it is the last message, and
have no place for the words before a call. Put back, a prompt is a prefix of the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from worker.formats.harmony import ANALYSIS, COMMENTARY, FINAL, NEXT, is_harmony
from worker.formats.reasoning import Reasoning
from worker.prompt.markers import Markers
from worker.prompt.switches import Switches
from worker.prompt.template import Template
from worker.prompt.thoughts import Thoughts


def speaks_harmony(template: Template, added: Collection[str]) -> bool:
    """Whether the template writes messages of this format; `added` are the tokenizer's added tokens."""
    return is_harmony(template.control_tokens(added))


class HarmonyThoughts(Thoughts):
    """Reasoning as an `analysis` message of its own."""

    def __init__(self, template: Template, switches: Switches, markers: Markers) -> None:
        super().__init__(template, switches, Reasoning(name="harmony", start=ANALYSIS, end=NEXT), markers)

    def _learn_form(self) -> tuple[str, str]:
        return ANALYSIS, NEXT

    def _learn_empty(self) -> bool:
        return True  # see `with_preamble`

    def begun(self, reasoning: str, text: str, *, opened: bool) -> str:
        before = "" if opened or not reasoning else ANALYSIS
        after = NEXT if opened or reasoning else ""
        return before + reasoning + after + (FINAL + text if text else "")


def with_preamble(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A message with calls whose text stands in a `commentary` message. Templates refuse text beside reasoning there,
    and show it as reasoning: so it goes behind the reasoning, of which there may be none."""
    text = str(answer["content"])
    if not text.strip():
        return dict(answer)
    thinking = f"{answer.get('thinking', '')}{NEXT}{COMMENTARY}{text}"
    return {**answer, "content": "", "thinking": thinking}
