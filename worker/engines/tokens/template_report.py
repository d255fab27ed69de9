"""What is said of a model's chat template when the model is loaded: in the log, and to whoever asks for it."""

from __future__ import annotations

import logging
from typing import Any

from worker.engines.tokens.call_trip import failed_trips
from worker.engines.tokens.output import OutputFormat, output_format
from worker.prompt import PromptBuilder

log = logging.getLogger(__name__)


def _reasoning(format_: OutputFormat) -> str:
    if format_.harmony_tokens:
        return "harmony"
    return format_.reasoning.name if format_.reasoning else ""


def report_template(tokenizer: Any, builder: PromptBuilder) -> dict[str, str]:
    """`rendering` is the mode (`worker.prompt.facts`), `calls` the family of calls that is read; where there is any,
    `missing` what is done without a template, `reasoning` the family of markers around it, `lacks` what the template
    has no place for, `efforts` the words for effort that it takes, and `unread` what of calls as it writes them our
    reader does not read back."""
    facts, failed = builder.facts, failed_trips(tokenizer, builder)
    format_ = output_format(tokenizer)
    said = {
        "missing": "messages are written as plain text with their roles" if builder.is_plain else "",
        "rendering": facts.mode,
        "calls": "harmony" if format_.harmony_tokens else format_.answer.calls.family.name,
        "reasoning": _reasoning(format_),
        "lacks": ", ".join(facts.lacks),
        "efforts": ", ".join(facts.efforts),
        "unread": ", ".join(failed),
    }
    said = {name: value for name, value in said.items() if value}
    log.info("chat template: %s", "; ".join(f"{name} {value}" for name, value in said.items()))
    if builder.is_plain:
        log.warning("the model came without a chat template: %s", said["missing"])
    for sample, problem in failed.items():
        log.warning("%s as the chat template writes it is not read back: %s", sample, problem)
    return said
