"""Large bodies are read in a process of their own, with the same result as small ones; its death costs one request."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from gateway.dialects.base import Dialect, Parsed
from gateway.dialects.registry import ANTHROPIC, DIALECTS, OPENAI_CHAT, OPENAI_COMPLETIONS
from gateway.intake.reader import SMALL_BYTES, SMALL_VALUES, Body, BodyReader
from gateway.intake.reading import Asked, read_request
from shared import wire
from shared.errors import InvalidRequestError, OverloadedError
from shared.processes import is_running
from shared.request import PackedRequest
from shared.work import Envelope, Generate
from tests.support.gateway import until

ASKED = Asked(headers={"x-claude-code-session-id": "s"}, request_id="r1", hint="; a hint")
TOOL = {"name": "Bash", "description": "é", "input_schema": {"type": "object"}}


def body_of(text: str, **more: Any) -> bytes:
    messages = [{"role": "system", "content": "be good"}, {"role": "user", "content": text}]
    return orjson.dumps({"model": "m", "max_tokens": 9, "messages": messages, "input": messages, **more})


def cut(data: bytes, chunk_bytes: int = 60_000) -> Body:
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    return Body(chunks=chunks, values=10)


LARGE = "words and words " * (SMALL_BYTES // 10)


@asynccontextmanager
async def reading() -> AsyncIterator[BodyReader]:
    reader = BodyReader()
    try:
        yield reader
    finally:
        await reader.aclose()


async def read_all(reader: BodyReader, *bodies: Body, dialect: Dialect = ANTHROPIC) -> Sequence[Parsed]:
    return [await reader.read(dialect, ASKED, body) for body in bodies]


def helper_pid(reader: BodyReader) -> int:
    assert reader._helper is not None
    return reader._helper._process.pid


@pytest.mark.parametrize("name", DIALECTS)
def test_a_large_body_becomes_the_request_that_it_would_have_become_at_once(name: str) -> None:
    dialect = DIALECTS[name]
    tools = [TOOL] if dialect is ANTHROPIC else [{"type": "function", "function": {"name": "Bash", "parameters": {}}}]
    prompt = {"prompt": LARGE} if dialect is OPENAI_COMPLETIONS else {}
    data = body_of(LARGE + r"\ud83d", tools=tools, stream=True, **prompt)
    direct = read_request(dialect, ASKED, data)

    async def main() -> Parsed:
        async with reading() as reader:
            first, again = await read_all(reader, cut(data), cut(data, 1000), dialect=dialect)
            assert first == again
            return first

    there = asyncio.run(main())
    assert isinstance(there.request, PackedRequest)
    assert (there.stream, there.reply, there.warnings) == (direct.stream, direct.reply, direct.warnings)
    assert wire.encode(Envelope(work=Generate(request=there.request), gateway="g")) == wire.encode(
        Envelope(work=Generate(request=direct.request), gateway="g")
    )


def test_small_bodies_need_no_helper_and_many_values_are_no_small_body() -> None:
    async def main() -> None:
        async with reading() as reader:
            await read_all(reader, cut(body_of("x")))
            assert reader._helper is None
            await reader.read(OPENAI_CHAT, ASKED, Body(chunks=[body_of("x")], values=SMALL_VALUES + 1))
            assert reader._helper is not None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (body_of(LARGE, max_tokens="x"), "max_tokens: Input should be a valid integer"),
        (body_of(LARGE)[:-1], "the request body is not valid JSON: .*; a hint"),
    ],
)
def test_what_is_wrong_with_a_large_body_is_said_as_with_a_small_one(data: bytes, message: str) -> None:
    async def main() -> None:
        async with reading() as reader:
            with pytest.raises(InvalidRequestError, match=message):
                await reader.read(ANTHROPIC, ASKED, cut(data))
            await read_all(reader, cut(body_of(LARGE)))

    asyncio.run(main())


def test_the_death_of_the_helper_costs_one_request_and_is_retryable() -> None:
    async def main() -> None:
        async with reading() as reader:
            await reader.start()
            first = helper_pid(reader)
            os.kill(first, signal.SIGSTOP)  # so that the request is under way when it dies
            asking = asyncio.create_task(reader.read(ANTHROPIC, ASKED, cut(body_of(LARGE))))
            waiting = asyncio.create_task(reader.read(ANTHROPIC, ASKED, cut(body_of(LARGE))))
            await until(reader._lock.locked, "it is under way")
            os.kill(first, signal.SIGKILL)
            with pytest.raises(OverloadedError, match="try again") as caught:
                await asking
            assert caught.value.retry_after_s == 1
            assert (await waiting).request.model == "m"
            assert helper_pid(reader) != first
            idle = helper_pid(reader)
            os.kill(idle, signal.SIGKILL)
            await until(lambda: reader._helper and reader._helper.has_ended, "the death of an idle helper shows")
            await read_all(reader, cut(body_of(LARGE)))

    asyncio.run(main())


def test_a_request_that_is_given_up_does_not_disturb_the_next() -> None:
    async def main() -> None:
        async with reading() as reader:
            await reader.start()
            for _ in range(3):
                asking = asyncio.create_task(reader.read(ANTHROPIC, ASKED, cut(body_of(LARGE))))
                await asyncio.sleep(0)
                asking.cancel()
            (parsed,) = await read_all(reader, cut(body_of(LARGE, max_tokens=7)))
            assert parsed.request.sampling.max_tokens == 7

    asyncio.run(main())


def test_the_helper_ends_with_its_reader() -> None:
    async def main() -> int:
        async with reading() as reader:
            await reader.start()
            return helper_pid(reader)

    assert not is_running(asyncio.run(main()))
