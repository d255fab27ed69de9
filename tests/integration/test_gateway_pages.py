"""Pages in browsers, and those without the key, at a real gateway: what they send, byte by byte, and what they get.

A browser itself is not started: the requests here are those that browsers make for a page.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping

import anthropic
import openai
import orjson
import pytest

from shared.redis_server import RedisServer
from tests.support.served import Reply, Served, message, served

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
BOTH = pytest.mark.parametrize("path", [MESSAGES, CHAT])
EVIL, LOCAL, LISTED = "https://evil.example", "http://localhost:3000", "https://chat.example"
KEY = "right"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    settings = {"allowed_hosts": "host.docker.internal", "allowed_origins": LISTED}
    with RedisServer() as server, served(server.url, folder, **settings) as gateway, gateway.worker():
        yield gateway


@pytest.fixture(scope="module")
def keyed(gateway: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(gateway.redis_url, tmp_path_factory.mktemp("keyed"), api_key=KEY) as keyed:
        yield keyed


def ask(gateway: Served, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
    """A request with exactly these headers, and the length of the body."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("content-length", str(len(body or b"")))
        connection.endheaders(body)
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def prompt(words: str = "hello") -> bytes:
    return orjson.dumps(message(words))


def from_page(origin: str, host: str = "localhost:8080", kind: str = "text/plain") -> dict[str, str]:
    return {"host": host, "origin": origin, "content-type": kind}


@BOTH
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_a_page_whose_name_was_made_to_point_here_gets_no_answer(gateway: Served, path: str, kind: str) -> None:
    for host in ("evil.example", f"evil.example:{gateway.port}"):
        reply = ask(gateway, "POST", path, from_page(EVIL, host, kind), prompt())
        assert reply.status == 403
        assert "MLX_GATEWAY_ALLOWED_HOSTS" in reply.json["error"]["message"]
        assert "access-control-allow-origin" not in reply.headers
    assert ask(gateway, "GET", "/v1/models", {"host": "evil.example"}).status == 403
    assert ask(gateway, "GET", "/ready", {"host": "evil.example"}).status == 403


@BOTH
@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/json"])
@pytest.mark.parametrize("origin", [EVIL, "null", "file://"])
def test_a_page_of_somebody_else_gets_no_answer(gateway: Served, path: str, kind: str, origin: str) -> None:
    reply = ask(gateway, "POST", path, from_page(origin, kind=kind), prompt())
    assert reply.status == 403
    assert "MLX_GATEWAY_ALLOWED_ORIGINS" in reply.json["error"]["message"]
    assert "access-control-allow-origin" not in reply.headers


@BOTH
@pytest.mark.parametrize("origin", [LOCAL, LISTED])
def test_a_page_of_this_machine_or_of_the_list_gets_its_answer_and_may_read_it(
    gateway: Served, path: str, origin: str
) -> None:
    reply = ask(gateway, "POST", path, from_page(origin, kind="application/json"), prompt())
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == origin
    assert reply.headers["access-control-expose-headers"] == "*"
    assert "origin" in reply.headers["vary"]
    with gateway.stream(path, message("hello", stream=True), {"origin": origin}) as source:
        assert source.headers["access-control-allow-origin"] == origin
        assert list(source)


def test_a_program_may_send_whatever_type_of_body_it_likes(gateway: Served) -> None:
    """As curl does by itself, and `fetch` in Node; neither names an origin."""
    for kind in ("application/x-www-form-urlencoded", "text/plain;charset=UTF-8"):
        reply = ask(gateway, "POST", MESSAGES, {"host": "localhost:8080", "content-type": kind}, prompt())
        assert reply.status == 200


def test_a_host_that_the_settings_name_is_served(gateway: Served) -> None:
    assert ask(gateway, "POST", MESSAGES, {"host": "host.docker.internal:8080"}, prompt()).status == 200


def test_a_request_without_a_host_is_refused_and_an_old_one_is_not(gateway: Served) -> None:
    assert ask(gateway, "POST", MESSAGES, {}, prompt()).status == 400
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("origin", [LOCAL, LISTED])
def test_a_preflight_is_answered_for_those_who_may_come_in(gateway: Served, keyed: Served, origin: str) -> None:
    asked = {
        "host": "127.0.0.1:8080",
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
        "access-control-request-private-network": "true",
    }
    for each in [gateway, keyed] if origin == LOCAL else [gateway]:
        reply = ask(each, "OPTIONS", MESSAGES, asked)
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["access-control-allow-origin"] == origin
        assert "POST" in reply.headers["access-control-allow-methods"]
        assert reply.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
        assert reply.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(("origin", "host"), [(EVIL, "localhost"), ("null", "localhost"), (LOCAL, "evil.example")])
def test_a_preflight_of_others_is_refused(gateway: Served, origin: str, host: str) -> None:
    asked = {"host": host, "origin": origin, "access-control-request-method": "POST"}
    reply = ask(gateway, "OPTIONS", MESSAGES, asked)
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


def test_a_page_may_read_a_refusal_too(gateway: Served, keyed: Served) -> None:
    local = {"host": "localhost", "origin": LOCAL}
    for each, path, status in ((gateway, "/v1/nothing", 404), (gateway, MESSAGES, 405), (keyed, "/v1/models", 401)):
        reply = ask(each, "GET", path, local)
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == LOCAL


@pytest.mark.parametrize(("origin", "status"), [(EVIL, 403), (LOCAL, 426)])
def test_a_page_that_asks_for_a_websocket_is_treated_as_any_other(gateway: Served, origin: str, status: int) -> None:
    upgrade = {
        "host": "localhost:8080",
        "origin": origin,
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert ask(gateway, "GET", MESSAGES, upgrade).status == status


def test_with_a_key_it_does_not_matter_by_which_name_one_comes(keyed: Served) -> None:
    for host in ("mac-studio.local:8080", "192.168.1.2", "gateway.example"):
        headers = {"host": host, "authorization": f"Bearer {KEY}"}
        assert ask(keyed, "POST", MESSAGES, headers, prompt()).status == 200
        assert ask(keyed, "POST", MESSAGES, headers | {"origin": f"https://{host}"}, prompt()).status == 200
        assert ask(keyed, "POST", MESSAGES, headers | {"origin": EVIL}, prompt()).status == 403
        assert ask(keyed, "POST", MESSAGES, headers | {"authorization": "Bearer wrong"}, prompt()).status == 401


def test_a_wrong_key_is_answered_before_the_body_and_the_body_is_not_waited_for(keyed: Served) -> None:
    """200 MB, of which a piece is sent now and then: refused at once, and cut off after two seconds."""
    piece = b" " * 1000
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=20) as client:
        head = f"POST {MESSAGES} HTTP/1.1\r\nhost: localhost\r\nx-api-key: wrong\r\ncontent-length: 200000000\r\n\r\n"
        client.sendall(head.encode() + piece)
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nwww-authenticate: Bearer" in answer
        assert b"\r\nconnection: close" in answer
        client.settimeout(0.05)
        assert _sent_until_closed(client, piece) < 200_000_000


def _sent_until_closed(client: socket.socket, piece: bytes) -> int:
    """Bytes that went out, a piece at a time, until the other side had closed."""
    sent = 0
    while True:
        try:
            sent += client.send(piece)
            if client.recv(65536) == b"":
                return sent
        except TimeoutError:
            pass
        except ConnectionError:
            return sent


@pytest.mark.parametrize("stream", [False, True])
def test_both_sdks_see_that_their_key_is_wrong_whatever_they_send(keyed: Served, stream: bool) -> None:
    words = "word " * 1_000_000
    url = f"http://127.0.0.1:{keyed.port}"
    with anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError, match="key is missing or wrong"):
            client.messages.create(
                model="echo", max_tokens=5, messages=[{"role": "user", "content": words}], stream=stream
            )
    with openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as other:
        with pytest.raises(openai.AuthenticationError, match="key is missing or wrong"):
            other.chat.completions.create(model="echo", messages=[{"role": "user", "content": words}], stream=stream)
