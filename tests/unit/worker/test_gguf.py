"""A GGUF model behind llama.cpp's own server (the xllamacpp wheel): what requests get, and what survives its death."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import InvalidRequestError, ModelUnavailableError
from shared.events import Progress, Started, TextDelta
from shared.messages import Message, TextPart, ToolCallPart, ToolResultPart
from shared.request import ReasoningOptions, SamplingParams, ToolChoice, ToolDefinition
from shared.worker_metrics import FIGURES
from tests.models.gguf_checkpoint import build_gguf
from tests.support.asked import Asked
from tests.support.gguf_engine import gguf_engine, needs_wheel
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import AGENT_FULL
from tests.support.processes import wait_until

pytestmark = needs_wheel

SHELL = ToolDefinition(
    name="Bash",
    description="Run a command",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
)
HAND = "\N{WAVING HAND SIGN}"


@pytest.fixture(scope="module")
def agent_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gguf(AGENT_FULL, tmp_path_factory.mktemp("gguf") / "agent.gguf")


@pytest.fixture(scope="module")
def one(agent_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with gguf_engine(agent_gguf, tmp_path_factory.mktemp("state")) as asked:
        yield asked


def call_of(completion: object) -> ToolCallPart:
    (call,) = [part for part in completion.parts if isinstance(part, ToolCallPart)]  # type: ignore[attr-defined]
    return call


def test_it_answers_and_calls_tools_as_the_same_weights_do_in_mlx(one: Asked) -> None:
    """Text, calls, and the second turn of a tool conversation, of which the server computes what was appended."""
    mlx = Driver(AGENT_FULL)
    asks = [message("user", "run: `ls -la`")]
    conversation = list(asks)
    for turn in range(2):
        wanted = replace(request(f"turn{turn}", conversation, max_tokens=80), tools=(SHELL,))
        (expected,) = mlx.run(replace(wanted, id=f"mlx{turn}"))
        came = one.answer(wanted)
        assert one.token_ids[f"turn{turn}"] == mlx.tokens[f"mlx{turn}"]
        assert came.reason == expected.reason
        if turn == 0:
            call = call_of(came)
            assert (call.name, json.loads(call.arguments)["command"]) == ("Bash", "ls -la")
            conversation.append(Message(role="assistant", parts=came.parts))
            result = ToolResultPart(call_id=call.id, parts=(TextPart(text="total 0"),))
            conversation.append(Message(role="tool", parts=(result,)))
    first, second = (next(e for e in one.events[key] if isinstance(e, Started)) for key in ("turn0", "turn1"))
    kept = first.usage.input_tokens + len(one.token_ids["turn0"]) - 1  # the last token is said and not computed
    assert second.usage.cached_tokens == kept
    assert any(isinstance(event, Progress) for event in one.events["turn1"])


def test_connections_that_the_server_has_closed_are_not_in_the_way(one: Asked) -> None:
    """It closes each after a hundred texts, or some seconds: more of them than are tried anew."""
    cut = one.source.tokenizer._cut
    taken = [cut._take() for _ in range(5)]
    for address, connection, _ in taken:
        if connection.sock is None:
            connection.connect()
        connection.sock.shutdown(socket.SHUT_RDWR)
        cut._free.append((address, connection))
    assert list(cut("hello", False)) == one.source.tokenizer.encode("hello")


def test_its_figures_have_names_and_meanings(one: Asked) -> None:
    assert set(one.engine.stats().metrics) <= set(FIGURES)


def test_a_character_of_several_tokens_is_told_with_all_of_them(one: Asked) -> None:
    """The server's stream holds only the last of them."""
    properties = {"a": {"const": f"x{HAND}y{HAND}"}}
    schema = {"type": "object", "properties": properties, "required": ["a"], "additionalProperties": False}
    wanted = replace(request("hands", [message("user", "hi")], max_tokens=60), response_schema=schema)
    completion = one.answer(wanted)
    (part,) = completion.parts
    assert isinstance(part, TextPart)
    assert json.loads(part.text) == {"a": f"x{HAND}y{HAND}"}
    assert one.source.tokenizer.decode(one.token_ids["hands"]).strip() == part.text
    assert completion.usage.output_tokens == len(one.token_ids["hands"])


def test_a_call_is_made_where_it_is_demanded(one: Asked) -> None:
    tool = ToolDefinition(
        name="weather",
        parameters={
            "type": "object",
            "properties": {"n": {"enum": [7]}},
            "required": ["n"],
            "additionalProperties": False,
        },
    )
    choice = ToolChoice(mode="tool", name="weather", parallel=False)
    wanted = replace(
        request("must", [message("user", "hello")], max_tokens=60), tools=(SHELL, tool), tool_choice=choice
    )
    completion = one.answer(wanted)
    assert (call_of(completion).name, json.loads(call_of(completion).arguments)) == ("weather", {"n": 7})
    assert completion.reason == "tool_calls"


def test_reasoning_is_told_apart(one: Asked) -> None:
    wanted = replace(request("think", [message("user", "/think hello")], max_tokens=120), tools=())
    thinking = replace(wanted, reasoning=ReasoningOptions(enabled=True), template_variables={"thinking": True})
    expected = Driver(AGENT_FULL).run(replace(thinking, id="same"))[0]
    came = one.answer(thinking)
    assert came.parts == expected.parts
    assert came.usage.reasoning_tokens == expected.usage.reasoning_tokens > 0


def test_logprobs_stop_sequences_and_seeds(one: Asked) -> None:
    sampling = SamplingParams(max_tokens=20, temperature=0.0, top_logprobs=2, stop=("tiny",))
    completion = one.answer(request("stop", [message("user", "hello")], sampling=sampling))
    assert completion.parts == (TextPart(text="Hello! I am a "),)
    assert (completion.reason, completion.stop_sequence) == ("stop_sequence", "tiny")
    deltas = [event for event in one.events["stop"] if isinstance(event, TextDelta)]
    logprobs = [logprob for delta in deltas for logprob in delta.logprobs]
    assert logprobs
    assert all(len(each.top) == 2 and each.logprob <= 0 for each in logprobs)
    seeded = [
        one.answer(
            request(f"seed{n}", [message("user", "hi")], sampling=SamplingParams(max_tokens=8, temperature=2.0, seed=5))
        )
        for n in range(2)
    ]
    assert seeded[0].parts == seeded[1].parts


def test_conversations_keep_their_slots(one: Asked) -> None:
    """Two that alternate are each computed once."""
    texts = {name: f"{name} " + "says something long enough to be told apart " * 12 for name in ("one", "two")}
    for turn in range(2):
        for name, text in texts.items():
            one.answer(request(f"{name}{turn}", [message("user", text)], max_tokens=4))
    for name in texts:
        started = next(e for e in one.events[f"{name}1"] if isinstance(e, Started))
        assert started.usage.cached_tokens >= started.usage.input_tokens - 1


def test_nothing_is_shared_between_tenants(one: Asked) -> None:
    text = "a secret that takes more than a few tokens to be said in full " * 4
    for tenant in ("a", "b"):
        one.answer(replace(request(f"of{tenant}", [message("user", text)], max_tokens=2), tenant=tenant))
    started = next(e for e in one.events["ofb"] if isinstance(e, Started))
    assert started.usage.cached_tokens == 0


def test_a_server_that_is_killed_comes_back_and_the_answer_goes_on(one: Asked) -> None:
    """Token for token what it would have been."""
    wanted = request("whole", [message("user", "hello there")], sampling=endless(1000))
    whole = one.answer(wanted)
    key = one.submit(replace(wanted, id="cut"))
    one.wait_tokens(key, 20)
    one.source.server.kill()
    assert one.wait_end(key).parts == whole.parts
    assert one.token_ids["cut"] == one.token_ids["whole"]
    wait_until(lambda: one.engine.stats().metrics["server_starts"] >= 2, "the server starts again")
    assert one.engine.count(wanted) == whole.usage.input_tokens


def endless(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, logit_bias={2: -1000.0})


@pytest.mark.slow
def test_what_was_computed_is_found_again_by_the_next_process(agent_gguf: Path, tmp_path: Path) -> None:
    wanted = request("before", [message("user", "words to be kept " * 120)], max_tokens=4)
    with gguf_engine(agent_gguf, tmp_path) as first:
        whole = first.answer(wanted)
    with gguf_engine(agent_gguf, tmp_path) as second:
        assert second.answer(replace(wanted, id="after")).parts == whole.parts
        started = next(e for e in second.events["after"] if isinstance(e, Started))
    assert started.usage.cached_tokens >= whole.usage.input_tokens - 1


@pytest.mark.slow
def test_a_template_that_llama_cpp_refuses_is_rendered_here(tmp_path: Path) -> None:
    """Its own engine knows neither the filter nor the tag."""
    template = (
        "{% generation %}{% endgeneration %}{% for m in messages %}{{ ({'a': 1} | list)[0] }}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    path = build_gguf(AGENT_FULL, tmp_path / "odd.gguf", template=template)
    with gguf_engine(path, tmp_path / "state", slots=1) as odd:
        assert odd.answer(request("odd", [message("user", "hi")], max_tokens=8)).usage.output_tokens == 8


def test_files_that_cannot_be_loaded_say_why(agent_gguf: Path, tmp_path: Path) -> None:
    data = agent_gguf.read_bytes()
    for name, content, words in (
        ("cut.gguf", data[: len(data) // 2], "is cut short"),
        ("head.gguf", data[:200], "cut short"),
        ("none.gguf", b"something else", "is not a GGUF file"),
        ("empty.gguf", b"", "cannot be read"),
        ("part-00001-of-00003.gguf", data, "lacks 2 of 3 parts"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelUnavailableError, match=words), gguf_engine(path, tmp_path / "state"):
            pass


def test_what_starts_the_server_is_missing(agent_gguf: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ModelUnavailableError, match="no program 'no-such-server'"),
        gguf_engine(agent_gguf, tmp_path, binary="no-such-server"),
    ):
        pass


def test_a_logit_bias_beyond_the_vocabulary_is_refused(one: Asked) -> None:
    sampling = SamplingParams(max_tokens=2, logit_bias={10**6: 1.0})
    with pytest.raises(InvalidRequestError, match="not in the vocabulary"):
        one.engine.prepare(request("bias", [message("user", "hi")], sampling=sampling))


@pytest.mark.slow
def test_a_model_that_drafts_changes_no_word(one: Asked, agent_gguf: Path, tmp_path: Path) -> None:
    """The same weights draft for themselves: whatever is proposed, what is said is the large model's."""
    asks = replace(request("plain", [message("user", "run: `ls -la`")], max_tokens=80), tools=(SHELL,))
    one.answer(asks)
    with gguf_engine(agent_gguf, tmp_path, draft=str(agent_gguf)) as drafted:
        came = drafted.answer(replace(asks, id="drafted"))
        assert json.loads(call_of(came).arguments)["command"] == "ls -la"
        assert drafted.token_ids["drafted"] == one.token_ids["plain"]
