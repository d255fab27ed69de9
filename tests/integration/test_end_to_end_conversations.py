"""Several conversations at once through HTTP, Redis and a real MLX worker: each gets its own answer, as if alone."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from tests.bench.wire import Answer, Connection, chat
from tests.support.models import AGENT_FULL, CheckpointMaker
from tests.support.stack import Stack
from tests.support.up import up

BASH = {
    "type": "function",
    "function": {
        "name": "Bash",
        "description": "Run a command",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}
COMMANDS = ("git status", "pwd", "ls -la", "make test", "cat notes", "git log", "python3 main", "date")
_LEFT_S = 20.0


def connect(url: str) -> Connection:
    host, _, port = url.removeprefix("http://").partition(":")
    return Connection(host, int(port))


def conversation(command: str) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": f"You work on {command}. " * 12},
        {"role": "user", "content": f"run: `{command}`"},
    ]


async def ask(url: str, model: str, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """The assistant message of a streamed answer, put together from its deltas, and its usage under `usage`."""
    connection = connect(url)
    message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}
    body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}, **fields}
    async for _, data in connection.events("/v1/chat/completions", body):
        event = orjson.loads(data) if data != b"[DONE]" else {}
        assert "error" not in event, event
        message["usage"] = event.get("usage") or message.get("usage")
        for choice in event.get("choices") or ():
            message["content"] += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls") or ():
                if call.get("id"):
                    message["tool_calls"].append(call | {"function": dict(call["function"])})
                else:
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    await connection.close()
    return message


async def two_turns(url: str, model: str, command: str) -> tuple[str, str]:
    """The arguments of the call and the final text of one agentic conversation."""
    messages = conversation(command)
    called = await ask(url, model, messages, tools=[BASH], max_tokens=120)
    (call,) = called["tool_calls"]
    answer = {"role": "assistant", "content": called["content"], "tool_calls": called["tool_calls"]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": f"{command} is done"}
    final = await ask(url, model, [*messages, answer, result], tools=[BASH], max_tokens=60)
    return call["function"]["arguments"], final["content"]


@pytest.mark.parametrize("which", ["model", "demo"])
def test_conversations_at_once_are_answered_as_alone(stack: Stack, which: str) -> None:
    model = stack.model if which == "model" else stack.demo

    async def alone() -> list[tuple[str, str]]:
        return [await two_turns(stack.url, model, command) for command in COMMANDS]

    async def together() -> list[tuple[str, str]]:
        return list(await asyncio.gather(*(two_turns(stack.url, model, command) for command in COMMANDS)))

    # Together first: then nothing is cached and the prompts are prefilled in one batch.
    crowd = asyncio.run(together())
    assert crowd == asyncio.run(alone())
    for (arguments, said), command in zip(crowd, COMMANDS, strict=True):
        assert f'"command": "{command}"' in arguments
        assert said == f"The tool said: {command} is done. All done."


@pytest.mark.parametrize("which", ["model", "demo"])
def test_a_next_turn_computes_only_what_is_new(stack: Stack, which: str) -> None:
    model = stack.model if which == "model" else stack.demo
    system = {"role": "system", "content": f"A conversation about {which} and its cache, kept apart. " * 40}

    async def turns() -> list[dict[str, Any]]:
        messages, usages = [system, {"role": "user", "content": "Hello, who are you?"}], []
        for question in ("And then?", "And after that?", "And at last?"):
            message = await ask(stack.url, model, messages, max_tokens=50)
            usages.append(message["usage"])
            messages += [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": question}]
        return usages

    first, *later = asyncio.run(turns())
    assert first["prompt_tokens_details"]["cached_tokens"] < 100
    before = first
    for usage in later:
        known = before["prompt_tokens"] + before["completion_tokens"]
        computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        appended = usage["prompt_tokens"] - known
        assert computed <= appended + 10, "only the new message and its frame"
        before = usage


@pytest.mark.slow
def test_reasoning_that_a_client_keeps_back_is_found_again_by_a_worker_that_was_restarted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The prompt holds the answers as they were generated, so it agrees with what the disk holds beyond the first of
    them."""
    folder = tmp_path_factory.mktemp("spelt")
    messages = [
        {"role": "system", "content": "A conversation with hidden thoughts, kept on disk. " * 60},
        {"role": "user", "content": "/think Hello"},
    ]
    for turn in range(3):
        with up(folder, "--engine", "mlx", "--model", str(AGENT_FULL)) as running:
            answer = asyncio.run(ask(running.wait_until_ready(), AGENT_FULL.name, messages, max_tokens=120))
        usage = answer["usage"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] > 0
        computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        assert computed <= 100 or turn == 0
        messages += [
            {"role": "assistant", "content": answer["content"]},
            {"role": "user", "content": f"/think And then {turn}?"},
        ]


def test_a_client_that_leaves_frees_its_slot_and_its_place_in_the_queue(
    random_checkpoint: CheckpointMaker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The worker runs one request at a time. The first never ends by itself, the second waits, the third too."""
    model = random_checkpoint("full")
    # Greedy: of these weights of chance only the likeliest token is never the end.
    endless = {
        "model": model.name,
        "messages": [{"role": "user", "content": "go on"}],
        "max_tokens": 30_000,
        "temperature": 0,
    }
    short = {"model": model.name, "messages": [{"role": "user", "content": "be brief"}], "max_tokens": 4}
    environment = {"MLX_GATEWAY_CAPACITY": "1"}
    with up(tmp_path_factory.mktemp("slots"), "--engine", "mlx", "--model", str(model), env=environment) as running:
        url = running.wait_until_ready()
        answer = asyncio.run(_leave_while_others_wait(url, endless, short))
    assert answer.output_tokens == 4


async def _leave_while_others_wait(url: str, endless: dict[str, Any], short: dict[str, Any]) -> Answer:
    async with AsyncExitStack() as opened:
        first, second, third = connect(url), connect(url), connect(url)
        for connection in (first, second, third):
            opened.push_async_callback(connection.close)
        stream = first.events("/v1/chat/completions", endless | {"stream": True})
        await _read(stream, 5)
        waiting = asyncio.create_task(_read(second.events("/v1/chat/completions", endless | {"stream": True}), 1))
        last = asyncio.create_task(chat(third, short))
        await _read(stream, 50)
        assert not last.done(), "the slot is taken"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await second.close()
        await first.close()
        async with asyncio.timeout(_LEFT_S):
            return await last


async def _read(stream: Any, count: int) -> None:
    for _ in range(count):
        await anext(stream)
