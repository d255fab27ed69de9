"""Every command of the documentation is one that we take, every link leads somewhere, and the first page is short."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from gateway.command.cli import build_parser
from gateway.command.ends import END_WORDS
from gateway.command.operating import EXAMPLES
from tests.support.processes import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINKED = [*PAGES, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "DESIGN.md"]
# What a person has, or is told how to get.
_OTHERS = {"export", "claude", "codex", "curl", "docker", "honcho", "litellm", "make", "pip", "python", "uv"}
_IDS = [path.name for path in PAGES]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of each line of shell, continued lines put together."""
    indented = re.findall(r"^    (mlx-gateway .*)$", text, re.MULTILINE)
    joined = "\n".join((*blocks(text, "sh"), *indented)).replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := _words(line))]


def _words(line: str) -> list[str]:
    words = shlex.split(line.replace("…", "X"), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words


def spans(text: str) -> list[list[str]]:
    """What stands in the middle of a text as a command that could be typed."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"`(mlx-gateway [a-z][^`\n]*)`", prose)
    return [shlex.split(words) for words in found if not re.search(r"[|<\[…]", words)]


def check_ours(words: list[str]) -> None:
    """As the command line takes them."""
    mine = words[: words.index("--")] if "--" in words else words
    try:
        build_parser().parse_args(mine[1:])
    except SystemExit as end:
        raise AssertionError(f"not taken: {' '.join(words)}") from end


@pytest.mark.parametrize("page", PAGES, ids=_IDS)
def test_every_command_of_a_page_is_one_that_is_taken(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for words in (*commands(text), *spans(text)):
        if words[0] in ("mlx-gateway", ".venv/bin/mlx-gateway"):
            check_ours(words)
        elif words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        else:
            assert words[0] in _OTHERS, words


@pytest.mark.parametrize("page", PAGES, ids=_IDS)
def test_every_body_and_settings_file_of_a_page_is_json(page: Path) -> None:
    text = page.read_text()
    bodies = [words[words.index("-d") + 1] for words in commands(text) if words[0] == "curl" and "-d" in words]
    for body in (*bodies, *blocks(text, "json")):
        json.loads(body)


@pytest.mark.parametrize("page", PAGES, ids=_IDS)
def test_every_python_example_of_a_page_can_be_compiled(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", LINKED, ids=lambda path: path.name)
def test_every_link_leads_to_a_page_and_to_a_heading_of_it(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_page_is_short_and_names_every_command() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert [name for name in EXAMPLES if not re.search(rf"\b{name}\b", text)] == []


def test_every_page_is_reached_from_the_first() -> None:
    seen: set[Path] = set()
    coming = [REPOSITORY / "README.md"]
    while coming:
        page = coming.pop()
        seen.add(page)
        for name in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", page.read_text()):
            found = (page.parent / name).resolve()
            if found not in seen and found.exists():
                coming.append(found)
    assert {page.name for page in PAGES} - {page.name for page in seen} == set()


def test_the_kinds_of_ends_are_those_of_the_command() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    rows = text.partition("| status | means |")[2].partition("\n\n")[0]
    numbers = re.findall(r"^\| ([\d, ]+) \|", rows, re.MULTILINE)
    assert [int(number) for row in numbers for number in row.split(",")] == [status for status, _ in END_WORDS]


def test_an_example_that_is_not_taken_is_found() -> None:
    with pytest.raises(AssertionError, match="not taken"):
        check_ours(["mlx-gateway", "upp"])
