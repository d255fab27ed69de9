"""What a client gets, whole and streamed, from a gateway process and an echo worker, of either way to compute."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest

from shared import wire
from shared.redis_server import RedisServer
from shared.registry import HostRecord, ModelRecord
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.sealed import LOADS, sealed_host
from tests.support.served import EventSource, Served, message, served

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
WORDS = "one two three"
RULES = [{"asked": ["by-rule"], "images": False, "most_prompt_bytes": 1000, "model": "echo"}]


@pytest.fixture(scope="module", params=("echo", "echo-streamed"))
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "config"
    config.mkdir()
    (config / "model_aliases.json").write_bytes(orjson.dumps({"fast": "echo"}))
    fallbacks = {"gone": ["echo"], "wrong": {"models": ["echo"], "on": ["overloaded"]}}
    (config / "claude_routing.json").write_bytes(orjson.dumps({"fallbacks": fallbacks, "rules": RULES}))
    with RedisServer() as server, served(server.url, folder, keepalive_s=0.2, config_dir=config) as gateway:
        with gateway.worker(engine=request.param):
            yield gateway


def text_of(source: EventSource) -> str:
    """The text of a Messages stream that must be well formed."""
    events = list(source)
    names = [name for name, _ in events if name != "ping"]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    deltas = (orjson.loads(data) for name, data in events if name == "content_block_delta")
    return "".join(delta["delta"]["text"] for delta in deltas)


@pytest.mark.parametrize("prefix", ["", "/anthropic"])
def test_a_whole_message(gateway: Served, prefix: str) -> None:
    reply = gateway.post(prefix + MESSAGES, message(WORDS))
    assert reply.status == 200
    assert reply.json["content"] == [{"type": "text", "text": WORDS}]
    assert reply.json["usage"]["input_tokens"] == 3
    assert reply.headers["content-type"] == "application/json"


def test_a_rule_has_another_model_answer_which_the_header_tells(gateway: Served) -> None:
    reply = gateway.post(MESSAGES, message(WORDS) | {"model": "by-rule"})
    assert (reply.status, reply.json["model"]) == (200, "echo")
    assert reply.headers["x-mlx-gateway-warnings"] == "by-rule is answered by echo: rule 1 of claude_routing.json"
    assert gateway.post(MESSAGES, message("x" * 2000) | {"model": "by-rule"}).status == 404
    counted = gateway.post(MESSAGES + "/count_tokens", message(WORDS) | {"model": "by-rule"})
    assert counted.json == {"input_tokens": 3}


@pytest.mark.parametrize("path", [MESSAGES, MESSAGES + "?beta=true", "/anthropic" + MESSAGES])
def test_a_streamed_message(gateway: Served, path: str) -> None:
    with gateway.stream(path, message(WORDS, stream=True), {"anthropic-version": "2099-01-01"}) as source:
        assert source.status == 200
        assert source.headers["content-type"].startswith("text/event-stream")
        assert source.headers["cache-control"] == "no-cache"
        assert source.headers["x-accel-buffering"] == "no"
        assert text_of(source) == WORDS


@pytest.mark.parametrize("earlier", [[], [{"role": "user", "content": "long " * 100_000}]])
def test_another_model_answers_for_one_that_is_not_there(gateway: Served, earlier: list[Any]) -> None:
    """Whole and streamed, small and large; for the errors that were chosen alone."""
    body = message(WORDS) | {"model": "gone"}
    body["messages"] = [*earlier, *([{"role": "assistant", "content": "yes"}] if earlier else []), *body["messages"]]
    reply = gateway.post(MESSAGES, body)
    assert (reply.status, reply.json["content"]) == (200, [{"type": "text", "text": WORDS}])
    told = reply.headers["x-mlx-gateway-warnings"]  # it is asked once, and then passed over for a while
    assert "gone did not answer: model_not_found" in told or "gone is passed over" in told
    with gateway.stream(MESSAGES, body | {"stream": True}) as source:
        assert text_of(source) == WORDS
    assert gateway.post(MESSAGES, message(WORDS) | {"model": "wrong"}).status == 404


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
def test_a_large_body_is_answered_like_a_small_one(gateway: Served, path: str) -> None:
    """It is read in a process of its own. (Both choices of a completion travel with what was read once.)"""
    earlier = [{"role": "user", "content": "long " * 100_000}, {"role": "assistant", "content": "yes"}]
    body = message(WORDS) | {"n": 2}
    reply = gateway.post(path, body | {"messages": [*earlier, *body["messages"]]})
    assert reply.status == 200, reply.body
    if path == MESSAGES:
        assert reply.json["content"] == [{"type": "text", "text": WORDS}]
    else:
        assert [choice["message"]["content"] for choice in reply.json["choices"]] == [WORDS, WORDS]


@pytest.mark.parametrize(("path", "status"), [(MESSAGES, "request_too_large"), (CHAT, "invalid_request_error")])
def test_a_body_of_a_million_blocks_is_refused_in_the_clients_shape(gateway: Served, path: str, status: str) -> None:
    blocks = [{"type": "text", "text": "a"}] * 90_000
    reply = gateway.post(path, message(WORDS) | {"messages": [{"role": "user", "content": blocks}]})
    assert (reply.status, reply.json["error"]["type"]) == (413, status)
    assert "more than 250000 values" in reply.json["error"]["message"]


def test_a_whole_chat_completion(gateway: Served) -> None:
    reply = gateway.post(CHAT, message(WORDS))
    assert reply.json["choices"][0]["message"]["content"] == WORDS


def test_a_streamed_chat_completion(gateway: Served) -> None:
    with gateway.stream(CHAT, message(WORDS, stream=True)) as source:
        data = [data for _, data in source]
    assert data[-1] == "[DONE]"
    deltas = (orjson.loads(chunk)["choices"][0]["delta"] for chunk in data[:-1])
    assert "".join(delta.get("content") or "" for delta in deltas) == WORDS


def test_an_opening_that_knows_the_prompts_length_says_it(gateway: Served) -> None:
    with gateway.stream(MESSAGES, message(WORDS, stream=True)) as source:
        name, data = next(iter(source))
    assert name == "message_start"
    assert orjson.loads(data)["message"]["usage"]["input_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_names_its_request_and_no_two_are_alike(gateway: Served, stream: bool) -> None:
    ids = set()
    for _ in range(2):
        with gateway.stream(MESSAGES, message(WORDS, stream=stream)) as source:
            assert source.headers["request-id"] == source.headers["x-request-id"]
            ids.add(source.headers["request-id"])
            list(source)
    assert len(ids) == 2


@pytest.mark.parametrize("name", ["claude-opus-4-8", "anthropic/echo", "fast", "current-model"])
def test_the_answer_says_the_name_that_was_asked_for(gateway: Served, name: str) -> None:
    assert gateway.post(MESSAGES, message(WORDS, model=name)).json["model"] == name


def test_pings_keep_a_silent_stream_alive(gateway: Served) -> None:
    with gateway.stream(MESSAGES, message("echo:hang", stream=True)) as source:
        names = [name for _, (name, _) in zip(range(4), source, strict=False)]
    assert names == ["message_start", "ping", "ping", "ping"]


def test_counting_tokens(gateway: Served) -> None:
    for path in ("/v1/messages/count_tokens?beta=true", "/anthropic/v1/messages/count_tokens"):
        reply = gateway.post(path, {"model": "echo", "messages": [{"role": "user", "content": WORDS}]})
        assert reply.json == {"input_tokens": 3}


def test_clients_count_in_bursts(gateway: Served) -> None:
    def count(words: int) -> int:
        body = {"model": "echo", "messages": [{"role": "user", "content": "x " * words}]}
        return int(gateway.post("/v1/messages/count_tokens", body).json["input_tokens"])

    with ThreadPoolExecutor(26) as pool:
        assert list(pool.map(count, range(1, 27))) == list(range(1, 27))


def test_a_model_that_is_not_loaded_is_asked_for_and_waited_for(gateway: Served) -> None:
    record = HostRecord(host="h", pid=1, models=(ModelRecord(id="later", state="available"),), reader=wire.READER)
    with gateway.client() as client, client.pubsub(ignore_subscribe_messages=True) as loads:
        client.set(NAMES.host("h"), sealed_host(record))
        client.sadd(NAMES.hosts, "h")
        loads.subscribe(NAMES.loads)
        assert loads.get_message(timeout=5) is None  # the subscription
        wait_until(lambda: gateway.get("/ready").json["available"] == ["later"], "the host is seen")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(gateway.post, MESSAGES, message(WORDS, model="later"))
            heard: Any = wait_until(lambda: loads.get_message(timeout=0.1), "the gateway asks for the model")
            assert wire.decode(LOADS.open(heard["data"])) == [["later", "h"]], "of the host where it is there soonest"
            assert not answer.done()
            with gateway.worker("later"):
                assert answer.result(20).json["content"][0]["text"] == WORDS
        client.delete(NAMES.host("h"))
        client.srem(NAMES.hosts, "h")
        wait_until(lambda: len(gateway.get("/v1/models").json["data"]) == 1, "the host's end is seen")


def test_models_in_the_shape_that_the_client_knows(gateway: Served) -> None:
    openai = gateway.get("/v1/models").json
    assert openai["object"] == "list"
    assert [model["id"] for model in openai["data"]] == ["echo"]
    for headers in ({"anthropic-version": "x"}, {"x-api-key": "k"}, {"user-agent": "claude-code/2.1.329"}):
        listed = gateway.get("/v1/models?limit=1000", headers).json
        assert [(model["id"], model["type"]) for model in listed["data"]] == [("anthropic/echo", "model")]
    assert gateway.get("/anthropic/v1/models").json == listed
    assert gateway.get("/v1/models/").json == openai
    assert gateway.get("/anthropic/v1/models/?limit=1").json == listed
    assert gateway.get("/anthropic/v1/models?after_id=anthropic/echo").json["data"] == []
    assert gateway.get("/anthropic/v1/models?limit=0").status == 400


def test_one_model_by_any_name_for_it(gateway: Served) -> None:
    assert gateway.get("/v1/models/echo").json["id"] == "echo"
    found = gateway.get("/anthropic/v1/models/anthropic/echo").json
    assert (found["id"], found["max_input_tokens"]) == ("anthropic/echo", 200_000)
    missing = gateway.get("/v1/models/nothing")
    assert missing.status == 404
    assert "there are: echo" in missing.json["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/api/hello", "/anthropic/api/hello"])
def test_probes_are_answered_at_once(gateway: Served, path: str) -> None:
    reply = gateway.call("HEAD", path)
    assert (reply.status, reply.body) == (200, b"")


def test_health_readiness_and_metrics(gateway: Served) -> None:
    assert gateway.get("/health").json == {"status": "ok"}
    assert gateway.get("/ready").json["models"] == ["echo"]
    gateway.post(MESSAGES, message(WORDS))
    metrics = gateway.get("/metrics").body.decode()
    for line in (
        'gw_requests_total{model="echo",outcome="ok",route="messages"}',
        'gw_ttft_seconds_count{cache="cold",class="interactive",model="echo"}',
        'gw_output_tokens_sum{model="echo"}',
        'gw_queue_depth{class="interactive",model="echo"} 0.0',
        "gw_redis_up 1.0",
        'gw_stream_gaps_total{outcome="lost"} 0.0',
        "process_cpu_seconds_total",
    ):
        assert line in metrics
    assert "_created" not in metrics
    assert "wk_" not in metrics, "two gateways would count every worker twice"


def test_a_hosts_own_metrics_have_a_page_that_discovery_names(gateway: Served) -> None:
    gateway.post(MESSAGES, message(WORDS))
    targets = gateway.get("/metrics/targets").json
    assert [each["labels"]["job"] for each in targets] == ["mlx-gateway"]  # the worker was started without a host
    assert targets[0]["targets"] == [f"127.0.0.1:{gateway.port}"]
    page = gateway.get("/metrics/hosts").body.decode()
    assert 'wk_capacity{copy="0",host="host",model="echo"}' in page
    assert 'wk_state{copy="0",host="host",model="echo",state="ready"} 1.0' in page
    assert 'wk_state{copy="0",host="host",model="echo",state="stalled"} 0.0' in page
    assert gateway.get("/metrics/hosts/nobody").status == 404


def test_many_streams_at_once_keep_their_words_apart(gateway: Served) -> None:
    sources = [gateway.stream(MESSAGES, message(f"stream {n} " * 20, stream=True)) for n in range(30)]
    for number, source in enumerate(sources):
        with source:
            assert text_of(source).split() == ["stream", str(number)] * 20


def test_the_gateways_own_time_and_the_gaps_between_tokens_are_counted(gateway: Served) -> None:
    def value(name: str) -> float:
        lines = gateway.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    gaps = "gw_inter_token_seconds_"
    stages = [f'gw_overhead_seconds_count{{stage="{stage}"}}' for stage in ("parse", "route", "enqueue")]
    answers_before, gaps_before, stages_before = (
        value("gw_e2e_seconds_count"),
        value(gaps + "count"),
        [*map(value, stages)],
    )
    assert gateway.post("/v1/messages", message("echo:words 500", model="echo")).status == 200
    wait_until(lambda: value("gw_e2e_seconds_count") == answers_before + 1, "the answer is counted")
    assert 1 <= value(gaps + "count") - gaps_before <= 500
    assert [value(stage) for stage in stages] == [count + 1 for count in stages_before]
    buckets = gateway.get("/metrics").body.decode().splitlines()
    assert sum(float(line.split()[1]) for line in buckets if line.startswith(gaps) and 'le="+Inf"' in line) == value(
        gaps + "count"
    )
    assert value(gaps + "sum") > 0
