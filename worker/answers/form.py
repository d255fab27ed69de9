"""What is known of an answer before its first word, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import Literal

from worker.answers.reasoning import Markers, Markup, mode_table
from worker.formats.readers import CallFormat

EndReason = Literal["stop", "length", "context_length"]


def call_ids(request_id: str) -> Iterator[str]:
    """Ids for the calls of one answer, in order: unique for ever, and the same whenever the answer is made again."""
    for index in count():
        yield f"toolu_{blake2b(f'{request_id}:{index}'.encode(), digest_size=12).hexdigest()}"


class AnswerFormat:
    """What is known of a model's answers; built once per model."""

    def __init__(self, markup: Markup, calls: CallFormat) -> None:
        self.markup = markup
        self.calls = calls
        self._modes = {
            has_calls: mode_table(
                markup, calls=(calls.start, calls.end) if has_calls else None, bare_starts=calls.bare_starts
            )
            for has_calls in (False, True)
        }

    def modes(self, *, calls: bool) -> dict[str, Markers]:
        return self._modes[calls]


@dataclass(frozen=True, slots=True)
class Beginning:
    """How an answer begins: inside reasoning that the prompt has opened, or going on with a message of the prompt's."""

    in_reasoning: bool = False
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """What an answer came to: text, calls with their arguments as JSON text, reasoning."""

    text: str
    calls: tuple[tuple[str, str], ...]
    reasoning: str
