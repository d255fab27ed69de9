"""Responses that run while nobody waits: kept from their beginning, followed, left, come back to, and cancelled."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.served import Served, served

PATH = "/v1/responses"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("background")
    with served(redis_server.url, folder) as gateway, gateway.worker(step_ms=10):
        yield gateway


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "input": text, "background": True, **fields}


def ended(gateway: Served, answer_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def has_ended() -> bool:
        found.append(gateway.get(f"{PATH}/{answer_id}").json)
        return found[-1]["status"] not in ("queued", "in_progress")

    wait_until(has_ended, "the response's end")
    return found[-1]


def test_it_is_queued_runs_by_itself_and_is_gone_on_from(gateway: Served) -> None:
    reply = gateway.post(PATH, asked("one two"))
    assert (reply.status, reply.json["status"], reply.json["background"]) == (200, "queued", True)
    answer = ended(gateway, reply.json["id"])
    assert (answer["status"], answer["output"][0]["content"][0]["text"]) == ("completed", "one two")
    after = gateway.post(PATH, {"model": "echo", "input": "three", "previous_response_id": answer["id"]}).json
    assert after["usage"]["input_tokens"] > answer["usage"]["input_tokens"]
    assert gateway.post(f"{PATH}/{answer['id']}/cancel", {}).json["status"] == "completed", "what has ended stays"
    assert gateway.call("DELETE", f"{PATH}/{answer['id']}").status == 200
    assert gateway.get(f"{PATH}/{answer['id']}?stream=true").status == 404


def test_who_asks_again_with_the_same_key_gets_the_response_that_was_begun(gateway: Served) -> None:
    key = {"idempotency-key": "begun once"}
    words = asked("echo:words 1000")
    first = gateway.post(PATH, words, key).json
    again = gateway.post(PATH, words, key)
    assert (again.status, again.json["id"]) == (200, first["id"])
    other = gateway.post(PATH, asked("something else"), key)
    assert (other.status, other.json["error"]["param"]) == (400, "Idempotency-Key")
    assert gateway.post(f"{PATH}/{first['id']}/cancel", {}).json["status"] == "cancelled"
    assert gateway.post(PATH, words, key).json["status"] == "cancelled", "also when it has ended"
    assert gateway.call("DELETE", f"{PATH}/{first['id']}").status == 200
    anew = gateway.post(PATH, asked("echo:words 1000"), key).json
    assert (anew["id"] != first["id"], anew["status"]) == (True, "queued"), "what is gone is answered anew"
    assert gateway.post(f"{PATH}/{anew['id']}/cancel", {}).status == 200


def test_of_many_who_ask_at_once_with_one_key_one_begins_a_response(gateway: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = pool.map(lambda _: gateway.post(PATH, asked("one two"), {"idempotency-key": "at once"}), range(8))
        ids = {reply.json["id"] for reply in replies}
    assert len(ids) == 1
    assert ended(gateway, ids.pop())["status"] == "completed"


def test_its_events_are_told_while_it_runs_and_again_behind_any_of_them(gateway: Served) -> None:
    with gateway.stream(PATH, asked("one two three", stream=True)) as stream:
        events = [json.loads(data) for _, data in stream]
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    answer_id = events[-1]["response"]["id"]
    with OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="x") as client:
        again = list(client.responses.retrieve(answer_id, stream=True, starting_after=3))
        assert [event.sequence_number for event in again] == list(range(4, len(events)))
        assert client.responses.retrieve(answer_id).output_text == "one two three"
    assert gateway.get(f"{PATH}/{answer_id}?stream=true&starting_after=x").status == 400


def test_a_client_that_leaves_ends_nothing_and_one_that_cancels_does(gateway: Served) -> None:
    body = asked("echo:words 1000", stream=True)
    with gateway.stream(PATH, body) as stream:
        first = json.loads(next(iter(stream))[1])["response"]
    assert gateway.get(f"{PATH}/{first['id']}").json["status"] == "in_progress"
    going_on = gateway.post(PATH, {"model": "echo", "input": "x", "previous_response_id": first["id"]})
    assert (going_on.status, "has not ended" in going_on.json["error"]["message"]) == (400, True)
    cancelled = gateway.post(f"{PATH}/{first['id']}/cancel", {}).json
    assert (cancelled["id"], cancelled["status"]) == (first["id"], "cancelled")
    with gateway.stream_of(f"{PATH}/{first['id']}?stream=true") as stream:
        assert [json.loads(data)["type"] for _, data in stream][:1] == ["response.created"], "and the stream ends"
    again = gateway.post(f"{PATH}/{first['id']}/cancel", {}).json
    assert again["status"] == "cancelled"


def test_what_is_wrong_is_told_at_once(gateway: Served) -> None:
    for fields, param in (({"store": False}, "store"), ({"input": 7}, "input"), ({"model": "none-such"}, None)):
        reply = gateway.post(PATH, asked("x") | fields)
        assert reply.status in (400, 404)
        assert reply.json["error"]["param"] == param or param is None


def test_another_gateway_tells_of_it_and_says_so_when_the_one_that_ran_it_is_gone(
    gateway: Served, redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with served(redis_server.url, tmp_path / "other") as other:
        answer_id = gateway.post(PATH, asked("echo:words 40")).json["id"]
        with other.stream_of(f"{PATH}/{answer_id}?stream=true") as stream:
            events = [json.loads(data) for _, data in stream]
        assert events[-1]["type"] == "response.completed"
        lost = other.post(PATH, asked("echo:words 300")).json["id"]
        wait_until(lambda: gateway.get(f"{PATH}/{lost}").json["status"] == "in_progress", "its beginning")
        other.process.signal(signal.SIGKILL)
        other.process.wait()
    with gateway.client() as client:  # what ends by itself 20 s later
        client.delete(*client.scan_iter("*.alive"))
    answer = ended(gateway, lost)
    assert (answer["status"], answer["error"]["code"]) == ("failed", "server_error")
