"""The official `anthropic` package against a real stack: every call it has for what we serve."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import anthropic
import pydantic
import pytest

from tests.support.models import DEMO_MODEL
from tests.support.stack import Stack
from worker.model_folder import made_at_s

HELLO = "Hello! I am a tiny test model. Point the configuration at a real model to get real answers."
BASH: dict[str, Any] = {
    "name": "Bash",
    "description": "Run a command",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}
LOOKUP: dict[str, Any] = {
    "name": "Lookup",
    "description": "Find a person",
    "input_schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def result(block: Any, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": block.id, "content": content, **more}


def total_input(usage: Any) -> int:
    return usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)


def test_create_returns_a_whole_message(claude: anthropic.Anthropic, stack: Stack) -> None:
    message = claude.messages.create(model=stack.model, max_tokens=100, messages=[user("hi")])
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", stack.model)
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == HELLO
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens > 10


def test_stream_and_create_give_the_same_message(claude: anthropic.Anthropic, stack: Stack) -> None:
    asked = {"model": stack.model, "max_tokens": 100, "messages": [user("What can you do?")]}
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        texts = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(texts) > 5, "text arrives in pieces"
    assert "".join(texts) == whole.content[0].text == streamed.content[0].text
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert total_input(streamed.usage) == total_input(whole.usage)


def test_raw_stream_has_the_vendors_event_order(claude: anthropic.Anthropic, stack: Stack) -> None:
    events = list(claude.messages.create(model=stack.model, max_tokens=100, messages=[user("hi")], stream=True))
    kinds = [event.type for event in events if event.type != "ping"]
    deltas = kinds.count("content_block_delta")
    assert deltas > 5
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.content == []
    assert total_input(events[0].message.usage) > 0
    assert events[-2].delta.stop_reason == "end_turn"
    assert events[-2].usage.output_tokens >= deltas


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_tools_round_trip_to_a_final_answer(claude: anthropic.Anthropic, stack: Stack, streamed: bool) -> None:
    def ask(messages: list[Any]) -> Any:
        asked = {"model": stack.model, "max_tokens": 200, "tools": [BASH], "messages": messages}
        if not streamed:
            return claude.messages.create(**asked)
        with claude.messages.stream(**asked) as stream:
            return stream.get_final_message()

    conversation: list[Any] = [user("run: `git status`")]
    called = ask(conversation)
    assert called.stop_reason == "tool_use"
    (block,) = [block for block in called.content if block.type == "tool_use"]
    assert block.id.startswith("toolu_")
    assert block.name == "Bash"
    assert block.input["command"] == "git status"

    conversation += [
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result(block, "nothing to commit")]},
    ]
    final = ask(conversation)
    assert final.stop_reason == "end_turn"
    assert final.content[0].text == "The tool said: nothing to commit. All done."


def test_the_tool_runner_runs_the_tool_and_ends_with_the_answer(claude: anthropic.Anthropic, stack: Stack) -> None:
    """It would leave the conversation with the server, and learns that it must send all of it."""
    commands: list[str] = []

    @anthropic.beta_tool(name="Bash")
    def bash(command: str, description: str = "") -> str:
        """Run a command."""
        commands.append(command)
        return "nothing to commit"

    runner = claude.beta.messages.tool_runner(
        model=stack.model, max_tokens=200, tools=[bash], messages=[user("run: `git status`")]
    )
    assert runner.until_done().content[-1].text == "The tool said: nothing to commit. All done."
    assert commands == ["git status"]


def test_a_thread_is_refused_in_the_packages_own_class(claude: anthropic.Anthropic, stack: Stack) -> None:
    with pytest.raises(anthropic.types.ThreadUnsupportedRequestError, match="whole conversation"):
        claude.beta.messages.thread(model=stack.model, max_tokens=50).send(user("hi"))


def test_structured_output_is_parsed_into_the_given_class(claude: anthropic.Anthropic, stack: Stack) -> None:
    class Title(pydantic.BaseModel):
        kind: Literal["first", "second"]
        count: Literal[1, 2]

    parsed = claude.messages.parse(
        model=stack.model, max_tokens=200, messages=[user("hi")], output_format=Title
    ).parsed_output
    assert isinstance(parsed, Title)


def test_tool_input_streams_as_json_that_grows(claude: anthropic.Anthropic, stack: Stack) -> None:
    with claude.messages.stream(
        model=stack.model, max_tokens=200, tools=[BASH], messages=[user("run: `ls -la`")]
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        block = stream.get_final_message().content[-1]
    assert len(pieces) > 3
    assert block.input == {"command": "ls -la", "description": "Run the command"}


def test_two_calls_in_one_turn_have_their_own_ids_and_results(claude: anthropic.Anthropic, stack: Stack) -> None:
    conversation: list[Any] = [user("run: `pwd` twice")]
    called = claude.messages.create(model=stack.model, max_tokens=300, tools=[BASH], messages=conversation)
    blocks = [block for block in called.content if block.type == "tool_use"]
    assert len(blocks) == 2
    assert len({block.id for block in blocks}) == 2
    results = [result(block, text) for block, text in zip(reversed(blocks), ("second", "first"), strict=True)]
    conversation += [
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": results},
    ]
    final = claude.messages.create(model=stack.model, max_tokens=100, tools=[BASH], messages=conversation)
    assert final.content[0].text.startswith("The tool said: ")


@pytest.mark.parametrize(
    "content",
    ["plain text", [{"type": "text", "text": "in a block"}], []],
    ids=["string", "blocks", "empty"],
)
def test_tool_results_of_every_shape_are_read(claude: anthropic.Anthropic, stack: Stack, content: Any) -> None:
    block = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
    final = claude.messages.create(
        model=stack.model,
        max_tokens=100,
        tools=[BASH],
        messages=[
            user("run: `ls`"),
            {"role": "assistant", "content": [block]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": content}]},
        ],
    )
    said = content if isinstance(content, str) else "".join(part["text"] for part in content) or "nothing"
    assert final.content[0].text == f"The tool said: {said}. All done."


def test_tool_choice_none_calls_nothing(claude: anthropic.Anthropic, stack: Stack) -> None:
    message = claude.messages.create(
        model=stack.model,
        max_tokens=200,
        tools=[BASH],
        tool_choice={"type": "none"},
        messages=[user("run: `ls`")],
    )
    assert not [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason != "tool_use"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "Lookup"}], ids=["any", "tool"])
def test_tool_choice_any_and_tool_force_a_call(
    claude: anthropic.Anthropic, stack: Stack, choice: dict[str, Any]
) -> None:
    """Without tools in the question the model itself would only greet."""
    message = claude.messages.create(
        model=stack.model, max_tokens=300, tools=[LOOKUP, BASH], tool_choice=choice, messages=[user("hi")]
    )
    (block,) = [block for block in message.content if block.type == "tool_use"]
    assert block.name in ({choice["name"]} if "name" in choice else {"Lookup", "Bash"})
    assert isinstance(block.input, dict)


def test_thinking_comes_as_its_own_block_and_goes_back(claude: anthropic.Anthropic, stack: Stack) -> None:
    asked: dict[str, Any] = {
        "model": stack.model,
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [BASH],
    }
    conversation: list[Any] = [user("run: `ls -la`")]
    with claude.messages.stream(**asked, messages=conversation) as stream:
        thought = stream.get_final_message()
    assert [block.type for block in thought.content] == ["thinking", "tool_use"]
    assert thought.content[0].thinking.strip() == "I should call a tool for this."
    assert thought.content[0].signature
    conversation += [
        {"role": "assistant", "content": thought.content},
        {"role": "user", "content": [result(thought.content[1], "total 8")]},
    ]
    final = claude.messages.create(**asked, messages=conversation)
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[1].text == "The tool said: total 8. All done."


def test_a_longer_conversation_reports_what_was_cached(claude: anthropic.Anthropic, stack: Stack) -> None:
    """The next turn only appends, so all but the new text comes from the cache."""
    system = "You are a helpful assistant in a test of caching. " * 60
    conversation: list[Any] = [user("Hello there, who are you and what can you do for me today?")]
    first = claude.messages.create(model=stack.demo, max_tokens=60, system=system, messages=conversation)
    conversation += [{"role": "assistant", "content": first.content}, user("And what else?")]
    second = claude.messages.create(model=stack.demo, max_tokens=60, system=system, messages=conversation)
    known = total_input(first.usage) + first.usage.output_tokens
    counted = claude.messages.count_tokens(model=stack.demo, system=system, messages=conversation)
    assert total_input(second.usage) == counted.input_tokens, "what was cached is counted once"
    assert second.usage.cache_read_input_tokens >= 0.9 * total_input(first.usage)
    assert second.usage.input_tokens < total_input(second.usage) - 0.9 * total_input(first.usage) + 1
    assert total_input(second.usage) > known


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_cache_was_asked_for_is_counted_as_written_and_then_as_read(
    claude: anthropic.Anthropic, stack: Stack, stream: bool
) -> None:
    mark: Any = {"cache_control": {"type": "ephemeral"}}
    said = f"A text that is to be kept, {'streamed' if stream else 'whole'}. " * 60
    asked: dict[str, Any] = {
        "model": stack.demo,
        "max_tokens": 5,
        "system": [{"type": "text", "text": said, **mark}],
        "messages": [user("Go on.")],
    }

    def ask() -> Any:
        if not stream:
            return claude.messages.create(**asked).usage
        with claude.messages.stream(**asked) as answer:
            return answer.get_final_message().usage

    whole = claude.messages.count_tokens(model=stack.demo, system=asked["system"], messages=asked["messages"])
    first, again = ask(), ask()
    assert [total_input(usage) for usage in (first, again)] == [whole.input_tokens] * 2
    assert first.cache_creation_input_tokens > 0.5 * whole.input_tokens
    assert first.input_tokens > 0, "the question stands behind it"
    assert again.cache_creation_input_tokens == 0
    assert again.cache_read_input_tokens > first.cache_creation_input_tokens * 0.9


def test_stop_sequences_end_the_text_before_them(claude: anthropic.Anthropic, stack: Stack) -> None:
    asked = {"model": stack.model, "max_tokens": 100, "messages": [user("hi")]}
    stopped = claude.messages.create(**asked, stop_sequences=["test model", "zzz"])
    assert stopped.content[0].text == "Hello! I am a tiny "
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "test model")
    with claude.messages.stream(**asked, stop_sequences=["test model", "zzz"]) as stream:
        assert "".join(stream.text_stream) == "Hello! I am a tiny "


def test_max_tokens_cuts_and_says_so(claude: anthropic.Anthropic, stack: Stack) -> None:
    message = claude.messages.create(model=stack.model, max_tokens=5, messages=[user("hi")])
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 5
    assert HELLO.startswith(message.content[0].text)


def test_count_tokens_equals_what_the_message_then_uses(claude: anthropic.Anthropic, stack: Stack) -> None:
    asked: dict[str, Any] = {
        "model": stack.model,
        "system": "Be brief.",
        "tools": [BASH],
        "messages": [user("run: `ls`")],
    }
    counted = claude.messages.count_tokens(**asked)
    used = claude.messages.create(**asked, max_tokens=50)
    assert counted.input_tokens == total_input(used.usage)


def test_many_counts_at_once_are_all_answered(stack: Stack) -> None:
    """`/context` in Claude Code sends 26 within a second."""

    async def count() -> list[int]:
        async with anthropic.AsyncAnthropic(base_url=stack.url, api_key="any", max_retries=0) as client:
            counts = (
                client.messages.count_tokens(model=stack.model, messages=[user("word " * n)]) for n in range(1, 27)
            )
            return [counted.input_tokens for counted in await asyncio.gather(*counts)]

    counts = asyncio.run(count())
    assert counts == sorted(counts)
    assert len(set(counts)) == 26


def test_models_are_listed_and_retrieved_with_their_limits(claude: anthropic.Anthropic, stack: Stack) -> None:
    ids = {model.display_name: model.id for model in claude.models.list(limit=1000)}
    assert set(ids) == {stack.model, stack.demo}
    assert [model.id for model in claude.models.list(limit=1)] == list(ids.values())  # page by page
    model = claude.models.retrieve(ids[stack.model])
    assert model.type == "model"
    assert model.max_input_tokens == 32768
    assert claude.models.retrieve(ids[stack.demo]).created_at.timestamp() == made_at_s(str(DEMO_MODEL))


@pytest.mark.parametrize("name", ["claude-sonnet-9", "claude-opus-9-20301231", "anthropic/agent-full"])
def test_names_of_the_vendor_and_of_discovery_are_served(claude: anthropic.Anthropic, stack: Stack, name: str) -> None:
    message = claude.messages.create(model=name, max_tokens=20, messages=[user("hi")])
    assert message.model == name


def test_an_unknown_model_is_not_found_with_the_names_that_exist(claude: anthropic.Anthropic, stack: Stack) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="no-such-model", max_tokens=5, messages=[user("hi")])
    assert stack.model in caught.value.body["error"]["message"]
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert caught.value.request_id
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("no-such-model")


@pytest.mark.parametrize(
    "broken",
    [
        {"messages": []},
        {"messages": [{"role": "wizard", "content": "hi"}]},
        {"messages": [user("hi")], "tools": [{"name": "x", "input_schema": "no object"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [user("hi")], "max_tokens": -1},
        {
            "messages": [
                user("hi"),
                {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "x", "input": {}}] * 2},
            ]
        },
    ],
    ids=["no messages", "unknown role", "bad schema", "bad content", "negative max_tokens", "one id for two calls"],
)
def test_a_broken_request_is_a_bad_request(claude: anthropic.Anthropic, stack: Stack, broken: dict[str, Any]) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(**{"model": stack.model, "max_tokens": 5, **broken})
    assert caught.value.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_prompt_over_the_window_is_refused_in_the_wording_clients_act_on(
    claude: anthropic.Anthropic, stack: Stack, streamed: bool
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 32768 maximum"):
        claude.messages.create(model=stack.model, max_tokens=5, messages=[user("word " * 40_000)], stream=streamed)


def test_a_body_over_32_megabytes_is_too_large(claude: anthropic.Anthropic, stack: Stack) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        claude.messages.create(model=stack.model, max_tokens=5, messages=[user("x" * 34_000_000)])
    assert caught.value.status_code == 413
    assert caught.value.body["error"]["type"] == "request_too_large"


def test_a_bearer_token_serves_as_well_as_an_api_key(stack: Stack) -> None:
    with anthropic.Anthropic(base_url=stack.url, auth_token="any", max_retries=0) as client:
        assert client.messages.create(model=stack.model, max_tokens=5, messages=[user("hi")]).content


def test_beta_calls_with_unknown_betas_and_fields_are_served(claude: anthropic.Anthropic, stack: Stack) -> None:
    message = claude.beta.messages.create(
        model=stack.model,
        max_tokens=30,
        messages=[user("hi")],
        betas=["something-2031-01-01"],
        extra_body={"some_new_field": {"a": 1}},
    )
    assert message.content[0].type == "text"


def test_images_for_a_text_model_are_refused_in_the_clients_wording(claude: anthropic.Anthropic, stack: Stack) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel}}
    with pytest.raises(anthropic.BadRequestError, match="image"):
        claude.messages.create(model=stack.model, max_tokens=5, messages=[{"role": "user", "content": [image]}])
