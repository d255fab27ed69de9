"""What an attacker sends to the console's API, to the whole application in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.types import Message

from gateway.admin import events, feeds
from gateway.app import GatewayApp, create_app
from gateway.keys.file import KeyFile
from gateway.keys.making import Wish, add_key, revoke_key
from shared.config import Settings
from tests.support.processes import free_port

ORDER = {"model": "echo", "action": "load"}
PAGE = {"origin": "http://127.0.0.1:3000"}  # of another port of this machine


@dataclass(frozen=True)
class Got:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(app: GatewayApp, method: str, path: str, body: Any = None, **headers: str) -> Got:
    data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    return await ask_in_pieces(app, method, path, [data], **headers)


async def ask_in_pieces(app: GatewayApp, method: str, path: str, chunks: Sequence[bytes], **headers: str) -> Got:
    left, sent = list(chunks), []

    async def receive() -> Message:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope_of(method, path, headers), receive, send)
    start, *rest = sent
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    return Got(start["status"], told, b"".join(each.get("body", b"") for each in rest))


def scope_of(method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """`path` as servers give it: without its query, percent-decoded."""
    path, _, query = path.partition("?")
    named = {"host": "127.0.0.1:8080", "content-type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }


@pytest.fixture
def app(tmp_path: Path) -> GatewayApp:
    return create_app(Settings(redis_url=f"redis://127.0.0.1:{free_port()}", state_dir=tmp_path))


@pytest.fixture
def keys(app: GatewayApp) -> dict[str, str]:
    file = KeyFile(app.parts.settings.state_dir)
    return {role: add_key(file, Wish(name=role, role=role))[0] for role in ("admin", "user", "viewer")}  # type: ignore[arg-type]


ROLES_MAY_NOT = (
    ("GET", "/api/overview", "user"),
    ("GET", "/api/about", "user"),
    ("GET", "/status", "user"),
    ("GET", "/metrics", "user"),
    ("POST", "/v1/messages", "viewer"),
    ("POST", "/v1/chat/completions", "viewer"),
    ("POST", "/v1/batches", "viewer"),
)


def test_a_path_that_ends_in_a_new_line_is_nobodys(app: GatewayApp, keys: dict[str, str]) -> None:
    async def main() -> None:
        for method, path, role in ROLES_MAY_NOT:
            assert (await ask(app, method, path, {}, x_api_key=keys[role])).status == 403
            for tail in ("\n", "\r\n", "\u2028", "\x0b", "\n/"):
                got = await ask(app, method, path + tail, {}, x_api_key=keys[role])
                assert got.status == 404, (path, tail, got)

    asyncio.run(main())


def test_where_no_key_is_needed_one_that_a_page_adds_opens_nothing(app: GatewayApp) -> None:
    async def main() -> None:
        for more in ({}, {"x_api_key": "any"}, {"authorization": "Bearer any"}, {"authorization": "Bearer "}):
            for page in (PAGE, {"sec_fetch_site": "cross-site"}):
                for path in ("/api/models", "/admin/load/echo", "/admin/drain/w", "/admin/revoke/mini"):
                    assert (await ask(app, "POST", path, ORDER, **page, **more)).status == 403, (path, page, more)

    asyncio.run(main())


def test_a_page_that_has_a_key_is_who_has_the_key(app: GatewayApp, keys: dict[str, str]) -> None:
    """It was given one by its owner; a session is the browser's, whatever page asks."""
    assert asyncio.run(ask(app, "POST", "/api/keys", {"name": ""}, x_api_key=keys["admin"], **PAGE)).status == 400
    assert asyncio.run(ask(app, "POST", "/api/keys", {"name": ""}, x_api_key="any", **PAGE)).status == 401


def test_a_body_of_any_size_is_not_kept(app: GatewayApp) -> None:
    """Signing in takes no key."""
    for path in ("/api/session", "/api/models"):
        got = asyncio.run(ask_in_pieces(app, "POST", path, [b" " * (3 << 20)] * 4))
        assert (got.status, b"larger than" in got.body) == (413, True), got.body


def test_no_answer_is_taken_for_another_type_than_it_says(app: GatewayApp) -> None:
    for path in ("/api/about", "/api/session", "/api/nothing", "/docs", "/openapi.json", "/health"):
        assert asyncio.run(ask(app, "GET", path)).headers["x-content-type-options"] == "nosniff"


def test_every_document_has_a_policy_and_is_in_no_frame(app: GatewayApp) -> None:
    for path in ("/", "/docs", "/console/v/voice.html"):
        got = asyncio.run(ask(app, "GET", path, accept="text/html"))
        policy = got.headers["content-security-policy"]
        assert ("default-src 'none'" in policy, "frame-ancestors 'none'" in policy) == (True, True)
        assert "unsafe" not in policy.replace("wasm-unsafe-eval", "")


# --- the stream of events ---------------------------------------------------------------------------------------------


class Console:
    """One that listens until its stream ends by itself."""

    def __init__(self, app: GatewayApp, topics: str, **headers: str) -> None:
        self._scope = scope_of("GET", f"/api/events?topics={topics}", headers)
        self.status = 0
        self.has_begun = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(app(self._scope, self._receive, self._send))

    async def _receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.has_begun.set()


def listening_until(app: GatewayApp, change: Any, **headers: str) -> None:
    """Fails unless the stream begins, goes on, and ends after the change."""

    async def main() -> None:
        async with asyncio.timeout(20):
            console = Console(app, "about", **headers)
            await console.has_begun.wait()
            assert (console.status, console.task.done()) == (200, False)
            change()
            await console.task
        await app.console.aclose()

    asyncio.run(main())


def test_a_stream_ends_with_its_key(app: GatewayApp, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "ASK_S", 0.001)
    listening_until(app, lambda: revoke_key(app.parts.keys, "viewer"), x_api_key=keys["viewer"])


def test_a_stream_ends_with_its_session(app: GatewayApp, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "ASK_S", 0.001)
    session = app.parts.key_check.open_session([keys["admin"].encode()])
    cookie = f"mlx_gateway_{app.parts.settings.port}={session}"
    listening_until(app, lambda: revoke_key(app.parts.keys, "admin"), cookie=cookie)


def test_a_stream_ends_where_its_key_may_less(
    app: GatewayApp, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lower() -> None:
        with app.parts.keys.changing() as records:
            records[:] = [replace(each, role="user") for each in records]

    monkeypatch.setattr(events, "ASK_S", 0.001)
    listening_until(app, lower, x_api_key=keys["viewer"])


def test_a_stream_that_began_before_there_was_a_key_ends_with_the_first(
    app: GatewayApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "ASK_S", 0.001)
    listening_until(app, lambda: add_key(app.parts.keys, Wish(name="anna")))


def test_one_keys_consoles_leave_room_for_others(
    app: GatewayApp, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_MOST_OF_A_KEY", 3)

    async def main() -> None:
        consoles = [Console(app, "about", x_api_key=keys["viewer"]) for _ in range(3)]
        for each in consoles:
            await each.has_begun.wait()
        more = await ask(app, "GET", "/api/events?topics=about", x_api_key=keys["viewer"])
        assert (more.status, more.headers["retry-after"]) == (429, "5")
        other = Console(app, "about", x_api_key=keys["admin"])
        await other.has_begun.wait()
        assert other.status == 200
        app.console.feeds.end()
        async with asyncio.timeout(20):
            await asyncio.gather(other.task, *(each.task for each in consoles))
            with app.console.feeds.listening(["about"], whose="viewer"):
                pass
        await app.console.aclose()

    asyncio.run(main())
