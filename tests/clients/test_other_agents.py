"""The real OpenCode, Qwen Code, pi and Aider: a task with a command or an edit, a second turn, and the session resumed,
with the tokens that each request computed. Run by `make test-recipes`: what is installed takes 1.6 GB."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.agents import PROGRAMS, Agent, Turn, turns_of
from tests.models.call_templates import template_of
from tests.models.scripted_checkpoint import build_scripted, cue
from tests.support.appended import check_appended
from tests.support.recorder import Exchange, Recorder
from tests.support.stack import Stack
from tests.support.up import up
from worker.formats.families import FAMILIES

pytestmark = [pytest.mark.recipes, pytest.mark.timeout(900)]

WORDS = ("lamps", "again", "third")
SIDE_REQUESTS = {"opencode": 1, "pi": 0}  # a title
TAIL_TOKENS = 64  # at most: what a template writes behind the last message, and a message of one letter


@contextmanager
def started(name: str, url: str, model: str, folder: Path) -> Iterator[tuple[Agent, Recorder]]:
    for part in ("home", "work"):
        (folder / part).mkdir()
    with Recorder(url) as recorder:
        agent = Agent(program=PROGRAMS[name], home=folder / "home", work=folder / "work", url=recorder.url, model=model)
        assert agent.version == agent.program.version
        yield agent, recorder


def of_conversation(agent: Agent, exchanges: Sequence[Exchange]) -> tuple[list[Exchange], list[Turn]]:
    """The conversation's requests and their figures; all of them are printed, the client's side requests too."""
    assert {(each.method, each.path, each.status) for each in exchanges} == {("POST", "/v1/chat/completions", 200)}
    turns = turns_of(exchanges)
    print(f"\n{agent.program.name} {agent.version}\n{'prompt':>8}{'computed':>10}{'cached':>8}")
    print(*turns, sep="\n")
    kept = [(exchange, turn) for exchange, turn in zip(exchanges, turns, strict=True) if turn.is_main]
    return [exchange for exchange, _ in kept], [turn for _, turn in kept]


def last_results(exchange: Exchange) -> list[str]:
    """What the tools said, as the model read it."""
    return [json.dumps(said["content"]) for said in exchange.body["messages"] if said["role"] == "tool"]


def common_tokens(recorder: Recorder, earlier: Exchange, later: Exchange) -> int:
    """Tokens, at least, of the tools and the messages with which both begin."""
    both = [each.body["messages"] for each in (earlier, later)]
    same = next(n for n, (one, other) in enumerate(zip(*both, strict=False)) if one != other)
    messages: list[Any] = [*both[0][:same], {"role": "user", "content": "x"}]
    again = recorder.say_again(earlier, messages=messages, max_tokens=1)
    return turns_of([again])[0].prompt_tokens - TAIL_TOKENS


@pytest.mark.parametrize("name", SIDE_REQUESTS)
def test_a_task_and_the_session_resumed_twice_compute_only_what_they_append(
    stack: Stack, tmp_path: Path, name: str
) -> None:
    with started(name, stack.url, stack.demo, tmp_path) as (agent, recorder):
        with recorder.recorded() as exchanges:
            said = [agent.run(f"use bash to run: `echo {word}`", resumed=word != WORDS[0]) for word in WORDS]
    assert [f"The tool said: {word}" in each for word, each in zip(WORDS, said, strict=True)] == [True] * 3
    main, turns = of_conversation(agent, exchanges)
    assert (len(main), len(exchanges) - len(main)) == (6, SIDE_REQUESTS[name])
    assert [word in result for word, result in zip(WORDS, last_results(main[-1]), strict=True)] == [True] * 3
    check_appended(turns)


def test_qwen_code_computes_what_it_appends_and_resumed_what_it_wrote_anew(stack: Stack, tmp_path: Path) -> None:
    """Each process says the date before its first prompt, and leaves that line out of a history that it resumes: the
    conversation differs from its first message on. Its system prompt and its tools, nearly all of it, are cached."""
    first, second, third = (f"use run_shell_command to run: `echo {word}`" for word in WORDS)
    with started("qwen", stack.url, stack.demo, tmp_path) as (agent, recorder):
        with recorder.recorded() as exchanges:
            said = [*agent.converse(first, second), *agent.converse(third, resumed=True)]
        main, turns = of_conversation(agent, exchanges)
        same = common_tokens(recorder, main[3], main[4])
    assert all("The tool said: " in each for each in said)
    assert len(main) == len(exchanges) == 6
    results = last_results(main[-1])
    assert [f"Output: {word}" in result for word, result in zip(WORDS, results, strict=True)] == [True] * 3
    check_appended(turns[:4])
    check_appended(turns[4:])
    assert turns[4].prompt_tokens - turns[4].computed_tokens >= same > turns[4].prompt_tokens / 2


EDITS = {
    "three": "I write three.\n\nnotes.txt\n```\none\nthree\n```\n",
    "four": "And four.\n\nnotes.txt\n```\nfour\n```\n",
}


def scripted(folder: Path) -> str:
    """A model that says the edit which the last message names; it is loaded from there."""
    choice = "".join(
        "{%- if '" + word + "' in (messages[-1].content | string) -%}{{ '" + cue(word) + "' }}{%- endif -%}"
        for word in EDITS
    )
    template = template_of(FAMILIES["json_tools"]) + "{%- if add_generation_prompt -%}" + choice + "{%- endif -%}"
    return str(build_scripted(folder, {"": "Well.", **EDITS}, template, end="<|im_end|>"))


def test_aider_edits_a_file_and_resumed_computes_what_it_wrote_anew(tmp_path: Path) -> None:
    """It writes the history that it resumes before the files, which stood there before: its system prompt, with the
    examples, is what both requests begin with, and that is cached. Besides, it asks for messages of its commits."""
    with up(tmp_path, "--engine", "mlx", "--model", scripted(tmp_path / "scripted")) as running:
        url = running.wait_until_ready()
        with started("aider", url, "scripted", tmp_path) as (agent, recorder):
            notes = agent.work / "notes.txt"
            notes.write_text("one\ntwo\n")
            with recorder.recorded() as exchanges:
                said = agent.run("write three instead of two")
                assert notes.read_text() == "one\nthree\n"
                agent.run("now write four alone", resumed=True)
            assert notes.read_text() == "four\n"
            main, turns = of_conversation(agent, exchanges)
            same = common_tokens(recorder, *main)
    assert "I write three." in said
    assert "Applied edit to notes.txt" in said
    assert "I write three." in json.dumps(main[1].body["messages"]), "the history is resumed"
    assert turns[1].prompt_tokens - turns[1].computed_tokens >= same > TAIL_TOKENS
