"""`docs/openai.md` says what becomes of every field that the newest package can send, and each row has its test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.audio import speech_create_params, transcription_create_params
from openai.types.chat import completion_create_params as chat_create_params

ROOT = Path(__file__).parent.parent.parent.parent
ROW = re.compile(r"^\| `(\w+)` \| (honoured|ignored|refused|functions|as in|`include)(.*) \| `(\w+)` \|$", re.MULTILINE)
TABLES: dict[str, tuple[Any, ...]] = {
    "Chat Completions": (
        chat_create_params.CompletionCreateParamsNonStreaming,
        chat_create_params.CompletionCreateParamsStreaming,
    ),
    "Embeddings": (embedding_create_params.EmbeddingCreateParams,),
    "Transcriptions": (
        transcription_create_params.TranscriptionCreateParamsNonStreaming,
        transcription_create_params.TranscriptionCreateParamsStreaming,
    ),
    "Speech": (speech_create_params.SpeechCreateParams,),
    "Completions": (
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    ),
}


def rows_of(heading: str) -> list[tuple[str, str]]:
    """(field, test) of each row of a section."""
    text = (ROOT / "docs" / "openai.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section.count("\n| `") == len(ROW.findall(section)), "every row can be read"
    return [(row[0], row[3]) for row in ROW.findall(section)]


def names_of_tests() -> Iterator[str]:
    for path in (ROOT / "tests").rglob("test_*.py"):
        yield from re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("heading", TABLES)
def test_every_field_of_the_package_has_its_row(heading: str) -> None:
    known = {name for params in TABLES[heading] for name in params.__annotations__}
    fields = [field for field, _ in rows_of(heading)]
    assert sorted(fields) == sorted(known)


@pytest.mark.parametrize("heading", TABLES)
def test_every_row_names_a_test_that_there_is(heading: str) -> None:
    named = {test for _, test in rows_of(heading)}
    assert named <= set(names_of_tests())
