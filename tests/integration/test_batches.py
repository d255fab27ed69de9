"""Batches through a whole stack: every item that was accepted ends, whatever is restarted meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest

from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.served import Served, served

PATIENCE_S = 100.0


@contextlib.contextmanager
def clients_of(gateway: Served) -> Iterator[tuple[openai.OpenAI, anthropic.Anthropic]]:
    url = f"http://127.0.0.1:{gateway.port}"
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="any") as gpt,
        anthropic.Anthropic(base_url=url, api_key="any") as claude,
    ):
        yield gpt, claude


def lines(count: int, words: str = "number") -> bytes:
    """Chat requests, one of which is wrong."""
    messages = [[{"role": "user", "content": f"{words} {number}"}] for number in range(count)]
    bodies = [{"model": "echo"}, *({"model": "echo", "messages": asked} for asked in messages[1:])]
    rows = [
        {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number, body in enumerate(bodies)
    ]
    return b"\n".join(orjson.dumps(row) for row in rows)


def asked_messages(count: int, words: str = "number") -> list[Any]:
    return [
        {
            "custom_id": f"m{number}",
            "params": {
                "model": "echo" if number else "nobody",
                "max_tokens": 50,
                "messages": [{"role": "user", "content": f"{words} {number}"}],
            },
        }
        for number in range(count)
    ]


def begin(gpt: openai.OpenAI, claude: anthropic.Anthropic, count: int) -> tuple[str, str]:
    """Half of them by either vendor's API."""
    file = gpt.files.create(file=("in.jsonl", lines(count // 2)), purpose="batch")
    made = gpt.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "1"}
    )
    messages = claude.messages.batches.create(requests=asked_messages(count - count // 2))
    return made.id, messages.id


def check_endings(gpt: openai.OpenAI, claude: anthropic.Anthropic, ids: tuple[str, str], count: int) -> None:
    """Each item has its own answer, or the error of its own fault."""
    half = count // 2

    def have_ended() -> bool:
        with contextlib.suppress(openai.APIConnectionError, anthropic.APIConnectionError):
            ended = claude.messages.batches.retrieve(ids[1]).processing_status == "ended"
            return ended and gpt.batches.retrieve(ids[0]).status == "completed"
        return False

    wait_until(have_ended, "both batches have ended", deadline_s=PATIENCE_S, every_s=0.2)
    batch = gpt.batches.retrieve(ids[0])
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed) == (half, half - 1)
    assert batch.metadata == {"run": "1"}
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    good = [orjson.loads(line) for line in gpt.files.content(batch.output_file_id).content.splitlines()]
    said = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in good}
    assert said == {f"c{number}": f"number {number}" for number in range(1, half)}
    (bad,) = [orjson.loads(line) for line in gpt.files.content(batch.error_file_id).content.splitlines()]
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("c0", 400)
    results = {row.custom_id: row.result for row in claude.messages.batches.results(ids[1])}
    assert len(results) == count - half
    wrong = results.pop("m0")
    assert wrong.type == "errored"
    assert wrong.error.error.type == "not_found_error"
    for name, result in results.items():
        assert result.type == "succeeded"
        assert result.message.content[0].text == f"number {name[1:]}"  # type: ignore[union-attr]


@pytest.mark.slow
def test_files_and_batches_of_both_vendors_are_read_by_their_packages(redis_url: str, tmp_path: Path) -> None:
    with served(redis_url, tmp_path) as gateway, gateway.worker(), clients_of(gateway) as (gpt, claude):
        ids = begin(gpt, claude, 24)
        check_endings(gpt, claude, ids, 24)
        assert [batch.id for batch in gpt.batches.list()] == [ids[0]]
        assert [batch.id for batch in claude.messages.batches.list()] == [ids[1]]
        assert {file.purpose for file in gpt.files.list()} == {"batch", "batch_output"}
        assert claude.messages.batches.delete(ids[1]).id == ids[1]
        with pytest.raises(anthropic.NotFoundError):
            claude.messages.batches.retrieve(ids[1])
        many = claude.messages.batches.create(requests=asked_messages(28_000))
        assert claude.messages.batches.cancel(many.id).request_counts.canceled > 20_000
        faulty = gpt.files.create(file=("in.jsonl", b"{}"), purpose="batch")
        made = gpt.batches.create(input_file_id=faulty.id, endpoint="/v1/chat/completions", completion_window="24h")
        assert made.status == "failed"
        assert gpt.files.delete(faulty.id).deleted
        with pytest.raises(openai.NotFoundError):
            gpt.files.content(faulty.id)
        hanging = claude.messages.batches.create(requests=asked_messages(3, "echo:hang\n"))
        assert claude.messages.batches.cancel(hanging.id).cancel_initiated_at is not None
        wait_until(lambda: claude.messages.batches.retrieve(hanging.id).processing_status == "ended", "it has ended")
        ends = {row.custom_id: row.result.type for row in claude.messages.batches.results(hanging.id)}
        assert ends["m1"] == ends["m2"] == "canceled"


@pytest.mark.slow
def test_300_items_end_while_gateway_worker_and_redis_are_restarted(tmp_path: Path) -> None:
    count = 300
    server = RedisServer()
    server.start()
    try:
        with contextlib.ExitStack() as workers:
            with served(server.url, tmp_path) as gateway, clients_of(gateway) as (gpt, claude):
                worker = workers.enter_context(gateway.worker(step_ms=10))
                ids = begin(gpt, claude, count)

                def done() -> int:
                    counts = claude.messages.batches.retrieve(ids[1]).request_counts
                    return counts.succeeded + counts.errored

                wait_until(lambda: done() > 5, "some are done", deadline_s=PATIENCE_S)
                worker.process.kill()
                workers.enter_context(gateway.worker(step_ms=10))
                so_far = done()
                wait_until(lambda: done() > so_far + 5, "more are done", deadline_s=PATIENCE_S)
                server.restart()
                so_far = done()
                wait_until(lambda: done() > so_far + 5, "still more are done", deadline_s=PATIENCE_S)
                gateway.process.process.kill()
            with served(server.url, tmp_path) as gateway, clients_of(gateway) as (gpt, claude):
                check_endings(gpt, claude, ids, count)
    finally:
        server.stop()
