"""From a canonical request to the tokens that a model reads."""

from worker.prompt.builder import PromptBuilder
from worker.prompt.facts import TemplateFacts
from worker.prompt.memory import Said, Spelling
from worker.prompt.samples import CallSample, call_sample, find_reasoning, turn_end
from worker.prompt.values import Boundary, Prompt

__all__ = [
    "Boundary",
    "CallSample",
    "Prompt",
    "PromptBuilder",
    "Said",
    "Spelling",
    "TemplateFacts",
    "call_sample",
    "find_reasoning",
    "turn_end",
]
