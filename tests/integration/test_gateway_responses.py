"""Responses through a gateway process: what only processes show of the dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import NotFoundError, OpenAI
from openai.types.responses import CompactedResponse

from shared.redis_server import RedisServer
from tests.support.served import Served, served

PATH = "/v1/responses"
NOTES = {"type": "namespace", "name": "notes", "tools": [{"type": "function", "name": "add"}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    with RedisServer() as server, served(server.url, folder) as gateway, gateway.worker():
        yield gateway


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "input": text, "store": False, **fields}


def test_whole_and_streamed_answers_say_the_same(gateway: Served) -> None:
    body = asked('echo:think hm\ncall notes__add {"text": "x"}', tools=[NOTES, {"type": "web_search"}])
    whole = gateway.post(PATH, body)
    assert whole.status == 200
    assert whole.headers["x-mlx-gateway-warnings"] == "not available here: web_search"
    reasoning, call = whole.json["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert (call["name"], call["namespace"], call["arguments"]) == ("add", "notes", '{"text": "x"}')
    with gateway.stream(PATH, body | {"stream": True}) as stream:
        events = [(name, json.loads(data)) for name, data in stream]
    assert events[0][0] == "response.created"
    name, last = events[-1]
    assert name == "response.completed"
    spoken = [(item["type"], item.get("arguments")) for item in last["response"]["output"]]
    assert spoken == [("reasoning", None), ("function_call", '{"text": "x"}')]


def test_the_answer_goes_back_with_the_result(gateway: Served) -> None:
    first = asked('call notes__add {"text": "x"}', tools=[NOTES])
    output = gateway.post(PATH, first).json["output"]
    user = {"role": "user", "content": first["input"]}
    result = {"type": "function_call_output", "call_id": output[0]["call_id"], "output": "added"}
    second = gateway.post(PATH, {**first, "input": [user, *output, result]})
    assert second.json["output"][-1]["content"][0]["text"] == "added"


def test_tokens_are_counted(gateway: Served) -> None:
    answer = gateway.post(PATH + "/input_tokens", asked("one two three"))
    assert answer.json["object"] == "response.input_tokens"
    assert answer.json["input_tokens"] > 0


# (Stored completions are listed at the path of Chat Completions.)
@pytest.mark.parametrize(
    ("path", "allow", "status"), [(PATH, "POST", 405), ("/v1/chat/completions", "GET, HEAD, POST", 200)]
)
def test_a_websocket_is_refused_so_that_codex_goes_on_with_http(
    gateway: Served, path: str, allow: str, status: int
) -> None:
    headers = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "x"}
    reply = gateway.get(path, headers)
    assert reply.status == 426
    assert reply.headers["allow"] == allow
    assert reply.json["error"]["code"] == "upgrade_refused"
    assert gateway.get(path).status == status


def test_an_answer_that_is_stored_is_had_again_gone_on_from_and_deleted(gateway: Served) -> None:
    first = gateway.post(PATH, {"model": "echo", "input": "one", "instructions": "be brief"}).json
    with gateway.stream(
        PATH, {"model": "echo", "input": "two", "previous_response_id": first["id"], "stream": True}
    ) as s:
        second = json.loads(list(s)[-1][1])["response"]
    third = gateway.post(PATH, {"model": "echo", "input": "three", "previous_response_id": second["id"]}).json
    assert (first["store"], second["previous_response_id"]) == (True, first["id"])
    assert gateway.get(f"{PATH}/{second['id']}").json == second
    assert third["usage"]["input_tokens"] == second["usage"]["input_tokens"] + 2, "an answer and a word"
    items = gateway.get(f"{PATH}/{third['id']}/input_items?order=asc").json
    assert [item["content"][0]["text"] for item in items["data"]] == ["one", "one", "two", "two", "three"]
    page = gateway.get(f"{PATH}/{third['id']}/input_items?limit=2&after={items['last_id']}").json
    assert [item["content"][0]["text"] for item in page["data"]] == ["two", "two"]
    assert page["has_more"]
    counted = gateway.post(
        PATH + "/input_tokens", {"model": "echo", "input": "three", "previous_response_id": second["id"]}
    )
    assert counted.json["input_tokens"] == third["usage"]["input_tokens"]
    assert gateway.post(f"{PATH}/{third['id']}/cancel", {}).status == 400
    gone = gateway.call("DELETE", f"{PATH}/{first['id']}")
    assert gone.json == {"id": first["id"], "object": "response", "deleted": True}
    for reply in (
        gateway.get(f"{PATH}/{first['id']}"),
        gateway.post(PATH, {"model": "echo", "input": "x", "previous_response_id": first["id"]}),
        gateway.post(f"{PATH}/{first['id']}/cancel", {}),
    ):
        assert (reply.status, reply.json["error"]["type"]) == (404, "invalid_request_error")
    assert gateway.get(f"{PATH}/{second['id']}").status == 200, "what went on from it stays whole"


def test_an_answer_that_is_not_to_be_stored_is_not(gateway: Served) -> None:
    answer = gateway.post(PATH, asked("secret")).json
    assert gateway.get(f"{PATH}/{answer['id']}").status == 404
    assert gateway.post(f"{PATH}/x", {}).status == 405


def test_a_conversation_is_compacted_to_one_item_that_is_gone_on_from(gateway: Served) -> None:
    first = gateway.post(PATH, {"model": "echo", "input": "remember the blue door"})
    compacted = gateway.post(
        PATH + "/compact", {"model": "echo", "input": "and the key", "previous_response_id": first.json["id"]}
    )
    assert (compacted.status, compacted.json["object"]) == (200, "response.compaction")
    (item,) = compacted.json["output"]
    assert item["type"] == "compaction"
    assert compacted.json["usage"]["input_tokens"] > first.json["usage"]["input_tokens"]
    assert CompactedResponse.model_validate(compacted.json).output[0].id == item["id"]
    after = gateway.post(PATH, asked("", input=[item, {"role": "user", "content": "go on"}]))
    assert after.status == 200
    assert gateway.get(f"{PATH}/{compacted.json['id']}").status == 404, "it is no response to be had again"
    wrong = gateway.post(PATH + "/compact", b"nonsense")
    assert (wrong.status, wrong.json["error"]["type"]) == (400, "invalid_request_error")


def test_a_conversation_takes_in_what_is_asked_and_answered_in_it(gateway: Served) -> None:
    with OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="x") as client:
        made = client.conversations.create(
            items=[{"role": "user", "content": "one"}, {"role": "assistant", "content": "yes"}],
            metadata={"topic": "doors"},
        )
        first = client.responses.create(model="echo", input="two", conversation=made.id)
        second = client.responses.create(model="echo", input="three", conversation={"id": made.id}, store=False)
        assert first.conversation is not None
        assert first.conversation.id == made.id
        assert second.usage is not None
        assert first.usage is not None
        assert second.usage.input_tokens > first.usage.input_tokens
        items = list(client.conversations.items.list(made.id, order="asc", limit=3))
        texts = [item.content[0].text for item in items]  # type: ignore[union-attr]
        assert texts == ["one", "yes", "two", "two", "three", "three"]
        assert len({item.id for item in items}) == 6
        more = client.conversations.items.create(made.id, items=[{"role": "user", "content": "four"}])
        assert client.conversations.items.retrieve(more.data[0].id, conversation_id=made.id).type == "message"
        client.conversations.items.delete(more.data[0].id, conversation_id=made.id)
        changed = client.conversations.update(made.id, metadata={"topic": "keys"})
        assert client.conversations.retrieve(made.id) == changed
        assert client.conversations.delete(made.id).deleted
        for call in (
            lambda: client.conversations.retrieve(made.id),
            lambda: client.responses.create(model="echo", input="x", conversation=made.id),
            lambda: client.conversations.retrieve(first.id),
        ):
            with pytest.raises(NotFoundError):
                call()
    both = {"model": "echo", "input": "x", "conversation": "conv_1", "previous_response_id": "resp_1"}
    assert gateway.post(PATH, both).json["error"]["param"] == "conversation"
    assert gateway.post("/v1/conversations", {"items": [{}] * 21}).json["error"]["param"] == "items"


def test_an_item_that_is_only_named_stands_where_it_is_named(gateway: Served) -> None:
    body = {"model": "echo", "input": 'call notes__add {"text": "x"}', "tools": [NOTES]}
    first = gateway.post(PATH, body).json
    call = first["output"][0]
    asked_item = gateway.get(f"{PATH}/{first['id']}/input_items").json["data"][0]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "added"}
    named = [{"type": "item_reference", "id": each["id"]} for each in (asked_item, call)]
    reply = gateway.post(PATH, {**body, "input": [*named, output]})
    assert reply.json["output"][-1]["content"][0]["text"] == "added"
    assert "x-mlx-gateway-warnings" not in reply.headers
    whole = gateway.post(PATH, {**body, "input": [{"role": "user", "content": body["input"]}, call, output]}).json
    assert reply.json["usage"]["input_tokens"] == whole["usage"]["input_tokens"], "as if it were sent whole"
    unknown = gateway.post(PATH, {**body, "input": [{"type": "item_reference", "id": "msg_7"}, "hello"]})
    assert (unknown.status, unknown.headers["x-mlx-gateway-warnings"]) == (200, "left out: item_reference")
