"""The official `openai` package against a real stack: chat completions and models."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from tests.support.models import DEMO_MODEL
from tests.support.stack import Stack

HELLO = "Hello! I am a tiny test model. Point the configuration at a real model to get real answers."
BASH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "Bash",
        "description": "Run a command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_create_returns_a_whole_completion(gpt: openai.OpenAI, stack: Stack) -> None:
    completion = gpt.chat.completions.create(model=stack.model, messages=[user("hi")])
    (choice,) = completion.choices
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == stack.model
    assert choice.message.role == "assistant"
    assert choice.message.content == HELLO
    assert choice.finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_stream_gives_the_same_text_and_ends_with_usage(gpt: openai.OpenAI, stack: Stack) -> None:
    asked = {"model": stack.model, "messages": [user("What can you do?")]}
    whole = gpt.chat.completions.create(**asked)
    chunks = list(gpt.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    *content, last = chunks
    assert content[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in content if chunk.choices[0].delta.content]
    assert len(texts) > 5
    assert "".join(texts) == whole.choices[0].message.content
    assert content[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_choices_are_separate_answers_to_one_prompt(gpt: openai.OpenAI, stack: Stack) -> None:
    asked: dict[str, Any] = {"model": stack.model, "messages": [user("hi")], "temperature": 2, "max_tokens": 9, "n": 3}
    whole = gpt.chat.completions.create(**asked, seed=5)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    alone = gpt.chat.completions.create(**asked | {"n": 1}, seed=6)
    assert alone.choices[0].message.content == texts[1]
    assert alone.usage.prompt_tokens == whole.usage.prompt_tokens

    streamed = ["", "", ""]
    for chunk in gpt.chat.completions.create(**asked, seed=5, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_stream_without_asking_for_usage_has_no_usage_chunk(gpt: openai.OpenAI, stack: Stack) -> None:
    chunks = list(gpt.chat.completions.create(model=stack.model, messages=[user("hi")], stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_tools_round_trip_to_a_final_answer(gpt: openai.OpenAI, stack: Stack, streamed: bool) -> None:
    conversation: list[Any] = [user("run: `git status`")]
    message = _ask(gpt, stack, conversation, streamed)
    (call,) = message["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "Bash"
    assert json.loads(call["function"]["arguments"])["command"] == "git status"
    conversation += [message, {"role": "tool", "tool_call_id": call["id"], "content": "nothing to commit"}]
    final = _ask(gpt, stack, conversation, streamed)
    assert final["content"] == "The tool said: nothing to commit. All done."


def _ask(gpt: openai.OpenAI, stack: Stack, messages: list[Any], streamed: bool) -> dict[str, Any]:
    """The assistant message, as a client would put it back into the conversation."""
    asked = {"model": stack.model, "messages": messages, "tools": [BASH]}
    if not streamed:
        return gpt.chat.completions.create(**asked).choices[0].message.model_dump(exclude_none=True)
    with gpt.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        return (
            stream.get_final_completion()
            .choices[0]
            .message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
        )


def test_streamed_tool_calls_name_once_then_arguments_by_index(gpt: openai.OpenAI, stack: Stack) -> None:
    chunks = gpt.chat.completions.create(
        model=stack.model, messages=[user("run: `pwd` twice")], tools=[BASH], stream=True
    )
    deltas = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    named = [call for call in deltas if call.function and call.function.name]
    assert [call.index for call in named] == [0, 1]
    assert len({call.id for call in named}) == 2
    for index in (0, 1):
        arguments = "".join(call.function.arguments or "" for call in deltas if call.index == index)
        assert json.loads(arguments)["command"] == "pwd"


def test_logprobs_are_of_the_tokens_that_were_said(gpt: openai.OpenAI, stack: Stack) -> None:
    completion = gpt.chat.completions.create(
        model=stack.model, messages=[user("hi")], logprobs=True, top_logprobs=3, temperature=0
    )
    content = completion.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == HELLO
    assert all(len(token.top_logprobs) == 3 for token in content)
    assert all(token.logprob <= 0 for token in content)
    assert all(token.top_logprobs[0].token == token.token for token in content), "greedy takes the likeliest"


def test_stop_sequences_end_the_text_before_them(gpt: openai.OpenAI, stack: Stack) -> None:
    completion = gpt.chat.completions.create(model=stack.model, messages=[user("hi")], stop=["test model"])
    assert completion.choices[0].message.content == "Hello! I am a tiny "
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_length_limits_cut_and_say_so(gpt: openai.OpenAI, stack: Stack, limit: str) -> None:
    completion = gpt.chat.completions.create(model=stack.model, messages=[user("hi")], **{limit: 5})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5


def test_logit_bias_forbids_a_token(gpt: openai.OpenAI, stack: Stack) -> None:
    """The tokenizer of the model gives "H" the id that its vocabulary says."""
    from tests.support.models import AGENT_FULL

    vocabulary = json.loads((AGENT_FULL / "tokenizer.json").read_text(encoding="utf8"))["model"]["vocab"]
    completion = gpt.chat.completions.create(
        model=stack.model, messages=[user("hi")], max_tokens=5, logit_bias={str(vocabulary["H"]): -100}
    )
    assert not (completion.choices[0].message.content or "").startswith("H")


def test_a_seed_repeats_what_was_sampled(gpt: openai.OpenAI, stack: Stack) -> None:
    def sample(seed: int) -> str | None:
        completion = gpt.chat.completions.create(
            model=stack.model, messages=[user("hi")], temperature=1.8, seed=seed, max_tokens=30
        )
        return completion.choices[0].message.content

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_developer_messages_are_read_like_system_messages(gpt: openai.OpenAI, stack: Stack) -> None:
    completion = gpt.chat.completions.create(
        model=stack.model, messages=[{"role": "developer", "content": "Be brief."}, user("hi")]
    )
    assert completion.choices[0].message.content


def test_a_next_turn_reports_what_was_cached(gpt: openai.OpenAI, stack: Stack) -> None:
    conversation: list[Any] = [
        {"role": "system", "content": "You help in another test of caching, patiently. " * 60},
        user("Hello there, who are you and what can you do for me today?"),
    ]
    first = gpt.chat.completions.create(model=stack.demo, messages=conversation)
    conversation += [{"role": "assistant", "content": first.choices[0].message.content}, user("And what else?")]
    second = gpt.chat.completions.create(model=stack.demo, messages=conversation)
    assert second.usage.prompt_tokens_details.cached_tokens >= 0.9 * first.usage.prompt_tokens


def test_models_are_listed_and_retrieved(gpt: openai.OpenAI, stack: Stack) -> None:
    assert {model.id for model in gpt.models.list()} == {stack.model, stack.demo}
    assert gpt.models.retrieve(stack.model).object == "model"
    assert gpt.models.retrieve(stack.demo).created == int((DEMO_MODEL / "config.json").stat().st_mtime)


def test_an_unknown_model_is_not_found_with_the_names_that_exist(gpt: openai.OpenAI, stack: Stack) -> None:
    with pytest.raises(openai.NotFoundError, match=stack.model) as caught:
        gpt.chat.completions.create(model="no-such-model", messages=[user("hi")])
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        gpt.models.retrieve("no-such-model")


CALL = {"type": "function", "id": "a", "function": {"name": "x", "arguments": "{}"}}


@pytest.mark.parametrize(
    "broken",
    [
        {"messages": []},
        {"messages": [{"role": "wizard", "content": "hi"}]},
        {"messages": [user("hi"), {"role": "assistant", "tool_calls": [CALL, CALL]}]},
        {"messages": [user("hi")], "temperature": "hot"},
        {"messages": [user("hi")], "tools": [{"type": "function"}]},
    ],
    ids=["no messages", "unknown role", "one id for two calls", "bad temperature", "bad tool"],
)
def test_a_broken_request_is_a_bad_request(gpt: openai.OpenAI, stack: Stack, broken: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.chat.completions.create(model=stack.model, **broken)
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_prompt_over_the_window_is_refused(gpt: openai.OpenAI, stack: Stack, streamed: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.chat.completions.create(model=stack.model, messages=[user("word " * 40_000)], stream=streamed)
    assert caught.value.code == "context_length_exceeded"


def test_a_body_over_32_megabytes_is_too_large(gpt: openai.OpenAI, stack: Stack) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        gpt.chat.completions.create(model=stack.model, messages=[user("x" * 34_000_000)])
    assert caught.value.status_code == 413


# --- completions: raw prompts ---------------------------------------------------------------------------------------

ASKED_RAW: dict[str, Any] = {"prompt": "def add(a, b):", "temperature": 0, "max_tokens": 6}


def test_a_raw_prompt_is_gone_on_with_as_text(gpt: openai.OpenAI, stack: Stack) -> None:
    whole = gpt.completions.create(model=stack.model, **ASKED_RAW, logprobs=2)
    (choice,) = whole.choices
    assert whole.id.startswith("cmpl-")
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > 0
    assert choice.logprobs is not None
    assert len(choice.logprobs.tokens or []) == whole.usage.completion_tokens
    assert "".join(choice.logprobs.tokens or []) == choice.text
    chunks = list(gpt.completions.create(model=stack.model, **ASKED_RAW, stream=True, echo=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == ASKED_RAW["prompt"] + choice.text
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason


def test_a_batch_of_prompts_has_an_answer_for_each_in_order(gpt: openai.OpenAI, stack: Stack) -> None:
    prompts = ["hello there", "def add(a, b):", "one two three"]
    alone = [gpt.completions.create(model=stack.model, **ASKED_RAW | {"prompt": prompt}) for prompt in prompts]
    together = gpt.completions.create(model=stack.model, **ASKED_RAW | {"prompt": prompts}, n=2)
    assert [choice.index for choice in together.choices] == list(range(6))
    assert [choice.text for choice in together.choices] == [one.choices[0].text for one in alone for _ in range(2)]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone if one.usage)


def test_ids_of_tokens_are_a_prompt_too(gpt: openai.OpenAI, stack: Stack) -> None:
    by_ids = gpt.completions.create(model=stack.model, **ASKED_RAW | {"prompt": [5, 6, 7]})
    assert by_ids.usage is not None
    assert by_ids.usage.prompt_tokens == 3
    with pytest.raises(openai.BadRequestError, match="no token"):
        gpt.completions.create(model=stack.model, **ASKED_RAW | {"prompt": [5, 1 << 30]})


def test_a_gap_that_the_model_cannot_fill_is_refused(gpt: openai.OpenAI, stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError, match="fill in the middle"):
        gpt.completions.create(model=stack.model, **ASKED_RAW, suffix="return a")


def test_what_nobody_here_can_do_is_not_found_with_what_there_is(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
        gpt.moderations.create(input="is this bad?")


def test_a_base_url_without_the_version_is_served(stack: Stack) -> None:
    with openai.OpenAI(base_url=stack.url, api_key="any", max_retries=0) as client:
        assert client.completions.create(model=stack.model, **ASKED_RAW).object == "text_completion"
        assert stack.model in {model.id for model in client.models.list()}


# --- forms in other servers' words, and stored completions ----------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"guided_choice": ["red", "green"]}, r"red|green"),
        ({"guided_regex": "[0-9]{3}"}, r"[0-9]{3}"),
        ({"grammar": 'root ::= ("ab" | "cd") "!"'}, r"(ab|cd)!"),
    ],
)
def test_forms_of_other_servers_are_kept(gpt: openai.OpenAI, stack: Stack, form: dict[str, Any], fits: str) -> None:
    completion = gpt.chat.completions.create(model=stack.model, messages=[user("which?")], extra_body=form)
    assert re.fullmatch(fits, completion.choices[0].message.content or "")


def test_a_stored_completion_is_found_changed_and_deleted(gpt: openai.OpenAI, stack: Stack) -> None:
    asked: dict[str, Any] = {"model": stack.model, "messages": [user("hi")], "store": True, "max_tokens": 5}
    whole = gpt.chat.completions.create(**asked, metadata={"run": "whole"})
    chunks = list(gpt.chat.completions.create(**asked, metadata={"run": "streamed"}, stream=True))
    assert whole.system_fingerprint == chunks[0].system_fingerprint
    assert {each.id for each in gpt.chat.completions.list(metadata={"run": "streamed"})} == {chunks[0].id}
    kept = gpt.chat.completions.retrieve(chunks[0].id)
    assert kept.choices[0].message.content == whole.choices[0].message.content
    (message,) = gpt.chat.completions.messages.list(whole.id)
    assert (message.role, message.content) == ("user", "hi")
    assert gpt.chat.completions.update(whole.id, metadata={"run": "changed"}).metadata == {"run": "changed"}
    assert gpt.chat.completions.retrieve(whole.id).metadata == {"run": "changed"}
    assert gpt.chat.completions.delete(whole.id).deleted
    with pytest.raises(openai.NotFoundError):
        gpt.chat.completions.retrieve(whole.id)
