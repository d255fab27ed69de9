"""The console's API at a real gateway: who may what, what an attacker tries, and what changes as it happens."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.command.cli import main
from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.served import EventSource, Reply, Served, message, served

OWNERS = "the owner's"
ROUTING = "claude_routing.json"
TEXT = '{\n  "tiers": {"opus": "echo"}\n}\n'
EVIL = '<img src=x onerror="alert(1)">'


@dataclass
class Household:
    gateway: Served
    keys: dict[str, str] = field(default_factory=dict)

    def call(
        self, method: str, path: str, body: Any = None, *, key: str = "", headers: Mapping[str, str] | None = None
    ) -> Reply:
        keyed = {"x-api-key": self.keys[key]} if key else {}
        return self.gateway.call(method, path, body, {**keyed, **(headers or {})})

    def sign_in(self, name: str) -> str:
        reply = self.call("POST", "/api/session", {"key": self.keys[name]}, headers=self.page())
        assert reply.status == 200, reply.body
        return reply.headers["set-cookie"].partition(";")[0]

    def page(self, **more: str) -> dict[str, str]:
        """What a browser says for the console's own page."""
        return {"origin": f"http://127.0.0.1:{self.gateway.port}", "sec-fetch-site": "same-origin", **more}


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    folder = tmp_path_factory.mktemp("console")
    (folder / "config").mkdir()
    with (
        RedisServer() as server,
        served(server.url, folder, api_key=OWNERS, config_dir=folder / "config") as gateway,
    ):
        found = Household(gateway, {"owner": OWNERS})
        gateway.headers["x-api-key"] = OWNERS
        with gateway.worker(cache_tokens=100_000):
            del gateway.headers["x-api-key"]
            for name in ("viewer", "user", "admin"):
                found.keys[name] = make_key(folder, name)
            yield found


def make_key(folder: Path, name: str) -> str:
    with contextlib.redirect_stdout(Printed()) as printed:
        assert main(["key", "create", name, "--role", name, "--state", str(folder / "state")]) == 0
    return printed.text.strip()


class Printed:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


READS = (
    "overview",
    "requests",
    "models",
    "models/local",
    "models/pulls",
    "models/speed",
    "routing",
    "cache",
    "cache/tree",
    "about",
    "names?name=echo",
    f"routing/{ROUTING}",
)
PRIVATE = ("keys", "hosts")
WRITES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "models", {"model": "echo", "action": "load"}),
    ("POST", "requests/req_1/cancel", None),
    ("PUT", f"routing/{ROUTING}", {"text": TEXT}),
    ("POST", f"routing/{ROUTING}/check", {"text": TEXT}),
    ("POST", f"routing/{ROUTING}/undo", None),
    ("POST", "keys", {"name": "mallory", "role": "admin"}),
    ("DELETE", "keys/admin", None),
    ("POST", "hosts", None),
    ("DELETE", "hosts/mini", None),
    ("POST", "models/pulls", {"model": "maker/model"}),
    ("DELETE", "models/pulls/maker/model", None),
    ("POST", "models/speed", {"model": "echo"}),
    ("DELETE", "models/speed/echo", None),
    ("POST", "models/hub", {"search": "qwen3"}),
    ("DELETE", "models/local/maker/model", None),
    ("POST", "cache", {"session": "1f0a3b5c"}),
)


@pytest.mark.parametrize("path", READS)
def test_a_viewer_reads_and_a_user_and_a_stranger_do_not(household: Household, path: str) -> None:
    assert household.call("GET", f"/api/{path}", key="viewer").status == 200
    assert household.call("GET", f"/api/{path}", key="user").status == 403
    assert household.call("GET", f"/api/{path}").status == 401


@pytest.mark.parametrize("path", PRIVATE)
def test_keys_and_hosts_are_administrators_affair(household: Household, path: str) -> None:
    assert household.call("GET", f"/api/{path}", key="admin").status == 200
    assert household.call("GET", f"/api/{path}", key="viewer").status == 403
    assert household.call("GET", f"/api/events?topics={path}", key="viewer").status == 403


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_a_viewer_writes_nothing(household: Household, method: str, path: str, body: Any) -> None:
    for headers in ({}, {"if-match": "none"}):
        assert household.call(method, f"/api/{path}", body, key="viewer", headers=headers).status == 403
        assert household.call(method, f"/api/{path}", body, key="user", headers=headers).status == 403
        assert household.call(method, f"/api/{path}", body, headers=headers).status == 401
    cookie = household.sign_in("viewer")
    assert household.call(method, f"/api/{path}", body, headers=household.page(cookie=cookie)).status == 403


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
@pytest.mark.parametrize(
    "page",
    [
        {"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "null"},
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
        {},
    ],
)
def test_a_post_of_another_page_is_refused_though_the_browser_is_signed_in(
    household: Household, method: str, path: str, body: Any, page: dict[str, str]
) -> None:
    cookie = household.sign_in("owner")
    assert household.call(method, f"/api/{path}", body, headers={"cookie": cookie, **page}).status == 403


def test_the_speed_of_a_model_is_told_by_requests_of_the_lowest_class(household: Household) -> None:
    def test() -> dict[str, Any]:
        found: dict[str, Any] = household.call("GET", "/api/models/speed", key="viewer").json["tests"].get("echo", {})
        return found

    asked = {"model": "echo"}
    cost = household.call("POST", "/api/models/speed", {**asked, "check": True}, key="admin").json
    assert (cost["model"], test()) == ("echo", {}), "nothing begins by asking what it costs"
    assert household.call("POST", "/api/models/speed", asked, key="admin").json["requests"] == cost["requests"]
    wait_until(lambda: test().get("state") != "running", "the test has ended", deadline_s=60)
    told = test()
    assert (told["state"], told["done"], told.get("reason")) == ("done", told["steps"], None), told
    prompts = [each["at"] for each in told["prefill"]]
    assert prompts == sorted(prompts)
    assert all(min(each["first_s"], each["tokens_per_s"]) > 0 for each in told["prefill"])

    def of_lowest_class() -> int:
        rows = household.call("GET", "/api/requests", key="viewer").json["rows"].values()
        return [row["class"] for row in rows if row["asked"] == "echo"].count("batch")

    wait_until(lambda: of_lowest_class() == cost["requests"], "each is a request like any other")
    assert household.call("DELETE", "/api/models/speed/echo", key="admin").status == 404
    refused = household.call("POST", "/api/models/speed", {"model": "nothing"}, key="admin")
    assert (refused.status, "there are: echo" in refused.body.decode()) == (404, True)


@pytest.fixture
def led_away(household: Household) -> Iterator[Household]:
    """Whatever is asked of `echo` in the lowest class another model answers, which names both."""
    file = household.gateway.folder / "config" / ROUTING
    rules = [{"asked": ["echo"], "classes": ["batch"], "model": "spare"}]
    before = file.read_bytes() if file.exists() else b"{}"
    file.write_bytes(orjson.dumps({"rules": rules, "tiers": {"opus": "echo"}}))
    try:
        with household.gateway.worker("spare"):
            yield household
    finally:
        file.write_bytes(before)


def test_a_models_speed_is_its_own_whatever_rules_say_and_is_asked_for_by_any_of_its_names(led_away: Household) -> None:
    def answered_by() -> str:
        headers = {"x-mlx-gateway-priority": "batch"}
        reply = led_away.call("POST", "/v1/messages", message("hello"), key="admin", headers=headers)
        return reply.headers["x-mlx-gateway-worker"]

    wait_until(lambda: ".spare." in answered_by(), "the rule counts")
    before = len(rows_of(led_away, "echo"))
    asked = led_away.call("POST", "/api/models/speed", {"model": "claude-opus-5"}, key="admin")
    assert (asked.status, asked.json["model"]) == (200, "echo"), asked.body
    speeds = led_away.call("GET", "/api/models/speed", key="viewer")
    assert speeds.json["tests"]["echo"]["state"] in ("running", "done")

    def have_answered() -> int:
        return len(rows_of(led_away, "echo")) - before

    wait_until(lambda: have_answered() >= asked.json["requests"], "echo has answered each", deadline_s=60)


def rows_of(household: Household, model: str) -> list[dict[str, Any]]:
    """The requests that this model answered."""
    rows = household.call("GET", "/api/requests", key="viewer").json["rows"].values()
    return [row for row in rows if row.get("model") == model]


def test_a_form_is_no_request_of_ours(household: Household) -> None:
    cookie = household.sign_in("owner")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = household.page(cookie=cookie) | {"content-type": kind}
        body = orjson.dumps({"model": "echo", "action": "load"})
        assert household.call("POST", "/api/models", body, headers=headers).status == 400
        assert (
            household.call("POST", "/api/session", body, headers=household.page() | {"content-type": kind}).status
            == 400
        )


@pytest.mark.parametrize("forge", [lambda c: c[:-3] + "000", lambda c: c.partition("=")[0] + "=", lambda c: "x" + c])
def test_a_forged_cookie_opens_nothing(household: Household, forge: Any) -> None:
    cookie = forge(household.sign_in("owner"))
    assert household.call("GET", "/api/overview", headers=household.page(cookie=cookie)).status == 401
    said = household.call("GET", "/api/session", headers=household.page(cookie=cookie)).json
    assert said == {"signed_in": False, "needs_key": True}


def test_a_session_is_one_that_no_script_reads_and_no_other_site_sends(household: Household) -> None:
    reply = household.call("POST", "/api/session", {"key": OWNERS}, headers=household.page())
    assert reply.json == {"signed_in": True, "needs_key": True, "name": "", "role": "admin"}
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(reply.headers["set-cookie"].split("; "))
    assert OWNERS not in reply.headers["set-cookie"]
    cookie = reply.headers["set-cookie"].partition(";")[0]
    signed = household.call("POST", "/v1/messages", message("hello"), headers=household.page(cookie=cookie))
    assert signed.status == 200, "the page's chat asks as who is signed in"
    out = household.call("DELETE", "/api/session", headers=household.page(cookie=cookie))
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert household.call("POST", "/api/session", {"key": "wrong"}, headers=household.page()).status == 401
    foreign = {"origin": "http://127.0.0.1:3000"}
    assert household.call("POST", "/api/session", {"key": OWNERS}, headers=foreign).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/console/x/../../api.py",
        "/console/x/..%2f..%2fapi.py",
        "/console/x/%2e%2e/api.py",
        "/console//etc/passwd",
        "/console/x/index.html%00",
        "/api/routing/..%2f..%2fstate%2fkeys.json",
        "/api/routing/keys.json",
        "/api/routing/remotes.json",
        "/api/requests/..%2f..%2fsecret",
    ],
)
def test_tricks_with_paths_reach_no_file(household: Household, path: str) -> None:
    assert household.call("GET", path, key="owner").status == 404


def test_a_models_name_is_looked_for_and_nothing_else(household: Household) -> None:
    for name in (EVIL, "../../etc/passwd", "a\r\nset-cookie: x=y", "%00", "*"):
        reply = household.call("POST", "/api/models", {"model": name, "action": "load"}, key="admin")
        assert reply.status == 404, reply.body
        assert reply.headers["content-type"] == "application/json"
        assert "x" not in reply.headers.get("set-cookie", "")


def test_a_code_to_join_with_is_made_where_a_stack_runs_that_lets_others_in(household: Household) -> None:
    refused = household.call("POST", "/api/hosts", key="admin")
    assert (refused.status, "mlx-gateway up --share" in refused.body.decode()) == (400, True)


@pytest.mark.parametrize("name", ["..%2f..%2fstate", "maker/none", "../keys.json"])
def test_no_folder_but_a_models_is_deleted(household: Household, name: str) -> None:
    reply = household.call("DELETE", f"/api/models/local/{name}", key="admin")
    assert (reply.status, b"no model" in reply.body) == (400, True), reply.body


def test_no_key_is_in_the_log_or_in_an_answer(household: Household) -> None:
    made = household.call("POST", "/api/keys", {"name": "carl", "role": "viewer"}, key="admin")
    assert made.json["name"] == "carl"
    household.call("POST", "/api/session", {"key": made.json["key"]}, headers=household.page())
    shown = household.call("GET", "/api/keys", key="admin").body.decode()
    assert made.json["key"] not in shown
    assert "digest" not in shown
    log = household.gateway.process.output()
    assert all(key not in log for key in (OWNERS, made.json["key"], *household.keys.values()))
    assert "console: POST keys" in log
    assert household.call("DELETE", "/api/keys/carl", key="admin").json == {"done": "carl is revoked"}
    assert household.call("GET", "/api/overview", headers={"x-api-key": made.json["key"]}).status == 401
    assert household.call("DELETE", "/api/keys/carl", key="admin").status == 404


def test_settings_are_checked_written_and_taken_back(household: Household) -> None:
    path = f"/api/routing/{ROUTING}"
    tag = household.call("GET", path, key="admin").json["tag"]
    assert household.call("PUT", path, {"text": TEXT}, key="admin").status == 400, "it does not say what it changes"
    found = household.call("POST", f"{path}/check", {"text": '{"tiers": 3}'}, key="admin").json
    assert "tiers" in found["fault"]
    wrote = household.call("PUT", path, {"text": TEXT}, key="admin", headers={"if-match": f'"{tag}"'})
    assert wrote.status == 200
    late = household.call("PUT", path, {"text": "{}"}, key="admin", headers={"if-match": f'"{tag}"'})
    assert (late.status, late.json["text"], late.json["error"]["code"]) == (412, TEXT, "changed_meanwhile")
    assert household.call("GET", "/api/routing", key="viewer").json["tiers"]["opus"] == {"model": "echo"}
    assert household.call("GET", "/api/names?name=claude-opus-4-1", key="viewer").json["model"] == "echo"
    undone = household.call("POST", f"{path}/undo", key="admin", headers={"if-match": wrote.json["tag"]})
    assert undone.json["tag"] == tag


def test_what_is_kept_is_seen_as_a_tree_and_dropped_piece_by_piece_or_by_session(household: Household) -> None:
    def ask(session: str, text: str) -> None:
        named = {"x-claude-code-session-id": session}
        body = message(text, system="head " * 40)
        assert household.call("POST", "/v1/messages", body, key="user", headers=named).status == 200

    def tree() -> dict[str, Any]:
        """As the worker told it last: within a second, or when it was told to drop something."""
        (told,) = household.call("GET", "/api/cache/tree", key="viewer").json["workers"].values()
        return dict(told["pieces"])

    def drop(**body: Any) -> Reply:
        return household.call("POST", "/api/cache", body, key="admin")

    def heads() -> list[dict[str, Any]]:
        return [each for each in tree().values() if len(each["sessions"]) > 1 and each["end"] >= 32]

    for session in ("one", "two"):
        ask(session, f"{session} " * 30)
    wait_until(lambda: heads(), "both sessions are seen")
    pieces = tree()
    one, two = heads()[-1]["sessions"][-2:]
    assert {each["above"] for each in pieces.values() if each["sessions"] in ([one], [two])} <= pieces.keys()
    assert drop(session=one).json == {"done": "dropped"}
    assert [one] not in [each["sessions"] for each in tree().values()]
    assert [two] in [each["sessions"] for each in tree().values()]
    (worker,) = household.call("GET", "/api/cache/tree", key="viewer").json["workers"]
    tops = [key for key, each in tree().items() if "above" not in each]
    assert drop(worker=worker, pieces=tops).status == 200
    assert tree() == {}
    assert drop(worker=worker, pieces=tops).json["done"].startswith("nothing was dropped")
    assert drop(session=one).status == 404
    assert drop(worker="nobody", pieces=tops).status == 404
    for bad in ({}, {"worker": worker}, {"worker": worker, "pieces": ["../x"]}, {"session": one, "worker": worker}):
        assert drop(**bad).status == 400, bad


def events(household: Household, topics: str, key: str = "viewer") -> EventSource:
    connection = http.client.HTTPConnection("127.0.0.1", household.gateway.port, timeout=20)
    connection.request("GET", f"/api/events?topics={topics}", headers={"x-api-key": household.keys[key]})
    return EventSource(connection, connection.getresponse())


def test_what_runs_is_seen_and_can_be_ended(household: Household) -> None:
    """Also: the cancelled client gets an error in its own shape, and the request's row says how it ended."""
    replies: list[Reply] = []

    def ask() -> None:
        replies.append(household.call("POST", "/v1/messages", message("echo:hang", stream=True), key="admin"))

    def first_running(source: EventSource) -> str:
        beats = 0
        for name, data in source:
            said = orjson.loads(data)
            state = said.get("state", said.get("patch", {})) if name in ("snapshot", "patch") else {}
            seen = state.get("running", {}) | state.get("waiting", {})
            for request_id, row in seen.items():
                if row is not None:
                    return str(request_id)
            beats += name == "beat"
            assert beats < 4, "nothing ran"
        raise AssertionError("the stream ended")

    with events(household, "overview") as source:
        assert (source.status, source.headers["cache-control"]) == (200, "no-store")
        asking = threading.Thread(target=ask)
        asking.start()
        request_id = first_running(source)
        reply = household.call("POST", f"/api/requests/{request_id}/cancel", key="admin")
        assert reply.json == {"done": f"{request_id} is cancelled"}
        asking.join(20)
    assert b"cancelled by an administrator" in replies[0].body
    assert household.call("POST", f"/api/requests/{request_id}/cancel", key="admin").status == 404

    def is_told() -> bool:
        rows = household.call("GET", "/api/requests", key="viewer").json["rows"]
        return request_id in rows and rows[request_id]["outcome"] == "cancelled"

    wait_until(is_told, "its row says how it ended")
    detail = household.call("GET", f"/api/requests/{request_id}", key="viewer").json
    assert detail["attempts"][0]["worker"]
    assert "body" not in detail


def test_patches_follow_their_snapshot_one_by_one(household: Household) -> None:
    with events(household, "requests,models") as source:
        numbers: dict[str, int] = {}
        stream = iter(source)
        while len(numbers) < 2:
            name, data = next(stream)
            said = orjson.loads(data)
            assert name == "snapshot"
            numbers[said["topic"]] = said["number"]
        assert household.call("POST", "/v1/messages", message("hello"), key="user").status == 200
        for name, data in stream:
            said = orjson.loads(data)
            if name == "patch":
                assert said["number"] == numbers[said["topic"]] + 1
                numbers[said["topic"]] = said["number"]
                if said["topic"] == "requests":
                    break


@pytest.mark.parametrize("topics", ["", "nothing", "overview,nothing"])
def test_topics_that_there_are_not_are_refused(household: Household, topics: str) -> None:
    assert household.call("GET", f"/api/events?topics={topics}", key="admin").status == 400


def test_browsers_get_the_page_and_programs_the_greeting(household: Household) -> None:
    page = household.call("GET", "/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert household.call("GET", "/", headers={"accept": "*/*"}).status == 401
    greeting = household.call("GET", "/", headers={"accept": "*/*"}, key="user")
    assert greeting.json == {"name": "mlx-gateway", "status": "ok"}
    assert household.call("HEAD", "/").status == 200


def test_without_a_key_who_sits_at_the_machine_is_administrator(tmp_path: Path, household: Household) -> None:
    with served(household.gateway.redis_url, tmp_path) as gateway:
        assert gateway.get("/api/session").json == {"signed_in": True, "needs_key": False, "name": "", "role": "admin"}
        assert gateway.get("/api/keys").json == {"owner": False, "fault": "", "keys": {}}
        order = {"model": "echo", "action": "load"}
        assert gateway.post("/api/models", order).status == 200
        own = {"origin": f"http://127.0.0.1:{gateway.port}"}
        assert gateway.post("/api/models", order, own).status == 200
        for page in ({"origin": "http://localhost:3000"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            assert gateway.post("/api/models", order, page).status == 403
        assert gateway.call("GET", "/api/keys", None, {"host": "evil.example"}).status == 403
        assert gateway.call("GET", "/", None, {"host": "evil.example", "accept": "text/html"}).status == 403
