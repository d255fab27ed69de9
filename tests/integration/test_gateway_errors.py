"""Every bad request and every bad day ends in an error of the client's own dialect, and none in a bare 500."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from rq.suspension import resume, suspend

from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.queues import cancelled_jobs, waiting_jobs
from tests.support.served import Reply, Served, message, served

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
BOTH = pytest.mark.parametrize("path", [MESSAGES, CHAT])
MAX_BODY_BYTES = 300_000
CONTEXT_TOKENS = 1000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    with RedisServer() as server, served(server.url, folder, max_body_bytes=MAX_BODY_BYTES) as gateway:
        with gateway.worker(context_tokens=CONTEXT_TOKENS):
            yield gateway


def problem(reply: Reply, path: str) -> dict[str, Any]:
    """The error object inside the dialect's envelope, which must be exactly that."""
    assert reply.headers["content-type"] == "application/json"
    body = reply.json
    if path.startswith(("/v1/messages", "/anthropic")):
        assert body.keys() == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert body["request_id"] == reply.headers["request-id"]
        assert body["error"].keys() == {"type", "message"}
    else:
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


BAD_BODIES: dict[str, Any] = {
    "nothing": b"",
    "cut off": b'{"model": "echo", "messages": [',
    "not UTF-8": b'{"model": "\xff"}',
    "an array": [],
    "a number": 5,
    "null": None,
    "no messages": {"model": "echo", "max_tokens": 5},
    "empty messages": message("x") | {"messages": []},
    "messages of the wrong type": message("x") | {"messages": "hello"},
    "a message of the wrong type": message("x") | {"messages": ["hello"]},
    "an unknown role": message("x") | {"messages": [{"role": "wizard", "content": "x"}]},
    "content of the wrong type": message("x") | {"messages": [{"role": "user", "content": 5}]},
    "max_tokens of the wrong type": message("x", max_tokens="many"),
    "a model of the wrong type": message("x") | {"model": {"id": "echo"}},
    "a temperature of the wrong type": message("x", temperature="hot"),
}


@BOTH
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bodies_that_are_wrong_are_refused_with_400(gateway: Served, path: str, body: Any) -> None:
    reply = gateway.post(path, b"null" if body is None else body)
    assert reply.status == 400
    assert problem(reply, path)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "messages"),
    [
        (MESSAGES, [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]}]),
        (CHAT, [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "t1", "content": "x"}]),
    ],
)
def test_a_tool_result_whose_call_is_gone_is_served(gateway: Served, path: str, messages: list[Any]) -> None:
    """It is shown to the model as text; see the parsers' tests for how."""
    assert gateway.post(path, message("x") | {"messages": messages}).status == 200


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context_window_has_the_words_claude_code_acts_on(
    gateway: Served, path: str, stream: bool
) -> None:
    reply = gateway.post(path, message("word " * 1500, stream=stream))
    assert reply.status == 400
    assert f"prompt is too long: 1500 tokens > {CONTEXT_TOKENS} maximum" in problem(reply, path)["message"]


@BOTH
def test_an_unknown_model_is_404_with_the_names_that_exist(gateway: Served, path: str) -> None:
    reply = gateway.post(path, message("x", model="qwen"))
    assert reply.status == 404
    assert "there are: echo" in problem(reply, path)["message"]


@BOTH
@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 5_000_000])
def test_a_body_over_the_limit_is_413(gateway: Served, path: str, size: int) -> None:
    reply = gateway.post(path, b" " * size)
    assert reply.status == 413
    assert str(MAX_BODY_BYTES) in problem(reply, path)["message"]


@BOTH
def test_a_chunked_body_over_the_limit_is_413_too(gateway: Served, path: str) -> None:
    chunk = b" " * 65536
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(40):
            client.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        client.sendall(b"0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_before_it_sends_is_refused_before_it_sends(gateway: Served) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        head = "host: localhost\r\nexpect: 100-continue\r\ncontent-length: 99999999"
        client.sendall(f"POST {MESSAGES} HTTP/1.1\r\n{head}\r\n\r\n".encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", MESSAGES, 405),
        ("PUT", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/messages/nothing", 404),
        ("POST", "/v1/moderations", 404),
        ("GET", "/anthropic/v1/nothing", 404),
        ("GET", "/favicon.ico", 404),
        ("GET", "/v1/messages/", 405),
        ("GET", "/%00%0d%0a", 404),
    ],
)
def test_unknown_paths_and_methods_are_answered_in_json(gateway: Served, method: str, path: str, status: int) -> None:
    reply = gateway.call(method, path)
    assert reply.status == status
    problem(reply, path)
    assert (status == 405) == ("allow" in reply.headers)


def test_the_usual_mistake_in_a_base_url_is_named(gateway: Served) -> None:
    assert "must not end in /v1" in gateway.post("/v1/v1/messages", message("x")).json["error"]["message"]


def test_shared_paths_are_answered_in_the_shape_of_the_clients_headers(gateway: Served) -> None:
    assert "request_id" in gateway.get("/v1/nothing", {"anthropic-version": "x"}).json
    assert "request_id" not in gateway.get("/v1/nothing", {"authorization": "Bearer x"}).json


def test_a_failure_in_the_engine_before_any_output_is_an_http_status(gateway: Served) -> None:
    reply = gateway.post(MESSAGES, message("echo:fail overloaded no memory", stream=True))
    assert (reply.status, problem(reply, MESSAGES)["type"]) == (529, "overloaded_error")


def test_with_nothing_served_clients_may_try_again(redis_url: str, tmp_path: Any) -> None:
    with served(redis_url, tmp_path) as gateway:
        assert gateway.get("/ready").status == 503
        assert gateway.get("/health").status == 200
        for path in (MESSAGES, CHAT, "/v1/messages/count_tokens", "/v1/models/x"):
            method = "GET" if "models" in path else "POST"
            reply = gateway.call(method, path, message("x") if method == "POST" else None)
            assert reply.status == (529 if "messages" in path else 503)
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert reply.headers["x-should-retry"] == "true"
            problem(reply, path)


def test_a_full_queue_is_refused_with_a_time_to_try_again(redis_url: str, tmp_path: Any) -> None:
    with (
        served(redis_url, tmp_path, max_queue=2, stream_grace_s=0.1) as gateway,
        gateway.worker(MLX_GATEWAY_CAPACITY=1),
    ):
        held = [gateway.stream(MESSAGES, message("echo:hang", stream=True)) for _ in range(2)]
        batch = {"x-mlx-gateway-priority": "batch"}
        assert gateway.post(MESSAGES, message("x"), batch).status == 529, "it would fill more than half of the queue"
        held.append(gateway.stream(MESSAGES, message("echo:hang", stream=True)))
        for path, status in ((MESSAGES, 529), (CHAT, 503)):
            for stream in (False, True):
                reply = gateway.post(path, message("x", stream=stream))
                assert reply.status == status
                assert 1 <= int(reply.headers["retry-after"]) <= 60
                assert "waiting" in problem(reply, path)["message"]
        assert 'gw_admission_rejections_total{reason="queue_full"} 5.0' in gateway.get("/metrics").body.decode()
        for source in held:
            source.leave()
        wait_until(lambda: "gw_inflight 0.0" in gateway.get("/metrics").body.decode(), "the gateway sees them leave")
        assert gateway.post(MESSAGES, message("room again")).status == 200


def test_a_key_opens_the_gateway_and_nothing_else_does(redis_url: str, tmp_path: Any) -> None:
    refused: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic right"},
        {"authorization": "right"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
    ]
    with served(redis_url, tmp_path, api_key="right") as gateway:
        for path in (MESSAGES, CHAT, "/metrics", "/v1/models"):
            method = "POST" if path in (MESSAGES, CHAT) else "GET"
            body = message("x" * 200_000) if method == "POST" else None
            for headers in refused:
                reply = gateway.call(method, path, body, headers)
                assert reply.status == 401
                assert "key" in reply.json["error"]["message"]
            for headers in (
                {"authorization": "Bearer right"},
                {"x-api-key": "right"},
                {"authorization": "bearer right"},
            ):
                assert gateway.call(method, path, body, headers).status in (200, 503, 529)
        assert gateway.get("/health").status == 200
        assert gateway.get("/ready").status == 503
        assert gateway.call("HEAD", "/").status == 200


def answers(gateway: Served) -> dict[tuple[str, str, str], float]:
    """`gw_requests_total` by route, model and outcome."""
    rows = re.findall(
        r'^gw_requests_total\{model="(.*?)",outcome="(.*?)",route="(.*?)"\} (\S+)$',
        gateway.get("/metrics").body.decode(),
        re.MULTILINE,
    )
    return {(route, model, outcome): float(count) for model, outcome, route, count in rows}


def test_refusals_are_counted_as_answers_are(gateway: Served) -> None:
    before = answers(gateway)
    gateway.post(MESSAGES, b"{")
    gateway.post(CHAT, {"model": "echo"})
    gateway.post(MESSAGES, message("x", model="nothing"))
    gateway.post("/v1/messages/count_tokens", message("x", model="nothing"))
    gateway.post(MESSAGES, message("word " * 1500))
    gateway.post(CHAT, b" " * (MAX_BODY_BYTES + 1))
    gateway.get(MESSAGES)
    gateway.get("/v1/models/nothing")
    gateway.get("/v1/models/echo")
    gateway.get("/v1/nothing")
    gateway.get("/health")
    gateway.get("/v1/models", {"host": "evil.example"})
    gateway.post(MESSAGES, message("echo:fail overloaded no memory", stream=True))
    gateway.post(CHAT, message("hi"))
    after = answers(gateway)
    counted = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert counted == {
        ("messages", "", "client_error"): 2,  # no JSON, and the wrong method
        ("messages", "", "model_not_found"): 1,
        ("messages", "echo", "client_error"): 1,
        ("messages", "echo", "overloaded"): 1,
        ("count_tokens", "", "model_not_found"): 1,
        ("chat_completions", "", "client_error"): 2,  # no messages, and too large
        ("chat_completions", "echo", "ok"): 1,
        ("model", "", "model_not_found"): 1,
        ("model", "", "ok"): 1,
        ("models", "", "permission_denied"): 1,
        ("unknown", "", "client_error"): 1,
    }


def test_the_wait_of_those_who_left_is_noted_too(gateway: Served) -> None:
    def noted() -> float:
        rows = re.findall(
            r'^gw_ttft_seconds_count\{.*model="echo"\} (\S+)$', gateway.get("/metrics").body.decode(), re.M
        )
        return sum(map(float, rows))

    before = noted()
    with gateway.stream(MESSAGES, message("echo:words 100000", stream=True, max_tokens=900)) as source:
        next(data for name, data in source if name == "content_block_delta")
    wait_until(lambda: noted() == before + 1, "the time of its first token is noted")


def test_without_redis_clients_may_try_again_and_all_is_well_when_it_is_back(tmp_path: Any) -> None:
    """Once the restart that they wait out does not come: here that is two seconds."""
    with RedisServer() as server, served(server.url, tmp_path, execution_ttl_s=1) as gateway, gateway.worker():
        server.process.kill()
        server.process.wait()
        wait_until(lambda: gateway.get("/ready").status == 503, "the gateway notices")
        for path, status in ((MESSAGES, 529), (CHAT, 503), ("/v1/messages/count_tokens", 529)):
            reply = gateway.post(path, message("x"))
            assert reply.status == status
            assert reply.headers["x-should-retry"] == "true"
            problem(reply, path)
        server.restart()
        wait_until(lambda: gateway.get("/ready").status == 200, "worker and gateway are back")
        assert gateway.post(MESSAGES, message("back again")).json["content"][0]["text"] == "back again"


def test_a_gateway_started_without_redis_waits_for_it(tmp_path: Any) -> None:
    with RedisServer() as server:
        server.process.kill()
        server.process.wait()
        with served(server.url, tmp_path, execution_ttl_s=1) as gateway:
            assert gateway.post(MESSAGES, message("x")).status == 529
            server.restart()
            with gateway.worker():
                assert gateway.post(MESSAGES, message("hello")).json["content"][0]["text"] == "hello"


def test_a_settings_file_that_can_not_be_used_stops_the_start_and_says_why(redis_url: str, tmp_path: Any) -> None:
    (tmp_path / "model_aliases.json").write_bytes(orjson.dumps({"fast": 1}))
    with pytest.raises(AssertionError, match=r"ended with 2 .*\n?.*model_aliases\.json: alias 'fast'"):
        with served(redis_url, tmp_path, config_dir=tmp_path):
            pass


def test_a_slip_in_a_settings_file_while_running_leaves_the_last_good_one_in_force(
    redis_url: str, tmp_path: Any
) -> None:
    file = tmp_path / "model_aliases.json"
    file.write_bytes(orjson.dumps({"fast": "echo"}))
    with served(redis_url, tmp_path, config_dir=tmp_path) as gateway, gateway.worker():
        assert gateway.get("/v1/models/fast").status == 200
        file.write_bytes(b"{broken")
        assert gateway.get("/v1/models/fast").status == 200
        assert "stays in force" in gateway.process.output()
        file.write_bytes(orjson.dumps({"quick": "echo"}))
        assert gateway.get("/v1/models/quick").status == 200
        assert gateway.get("/v1/models/fast").status == 404


def test_too_many_counts_are_refused_and_those_of_clients_that_leave_are_taken_back(
    redis_url: str, tmp_path: Any
) -> None:
    path = "/v1/messages/count_tokens"
    with served(redis_url, tmp_path, max_counts=2) as gateway, gateway.worker(), gateway.client() as client:
        suspend(client)
        (worker,) = client.smembers("rq:workers")
        wait_until(lambda: client.hget(worker, "state") == b"suspended", "the worker takes nothing")
        with contextlib.ExitStack() as held:
            for _ in range(2):
                held.enter_context(gateway.connected(path, message("one two")))
            wait_until(lambda: len(waiting_jobs(client, "echo")) == 2, "two wait to be counted")
            reply = gateway.post(path, message("x"))
            assert (reply.status, reply.headers["retry-after"]) == (529, "1")
            assert "2 requests to count" in problem(reply, path)["message"]
        wait_until(lambda: not waiting_jobs(client, "echo"), "nobody waits for them any more")
        assert len(cancelled_jobs(client, "echo")) == 2
        resume(client)
        assert gateway.post(path, message("one two three")).json == {"input_tokens": 3}
