"""Commands on a machine that has nothing but a gateway's URL and key."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.command.elsewhere import RemoteGateway
from gateway.command.ends import NOT_THERE, exit_status
from shared.errors import ConfigError
from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.served import Served, served
from tests.support.up import run_command

KEY = "a key for administrators"


@pytest.fixture
def gateway(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    with served(redis_server.url, tmp_path, api_key=KEY) as found:
        found.headers["authorization"] = f"Bearer {KEY}"
        with found.worker(host="studio"):
            yield found


def test_a_laptop_asks_the_gateway_that_it_uses(gateway: Served, tmp_path: Path) -> None:
    laptop = ("--state", str(tmp_path / "laptop"))

    def run(*words: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
        return run_command(*words, *laptop, env={"MLX_GATEWAY_API_KEY": key})

    url = f"http://127.0.0.1:{gateway.port}"
    refused = run("models", "--url", url, key="another")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert refused.stderr.startswith(f"mlx-gateway: {url}: the API key is missing or wrong: ")
    assert "`mlx-gateway key create NAME`" in refused.stderr, "where a key comes from"
    assert refused.stderr.endswith("; set MLX_GATEWAY_API_KEY to one that it knows\n")
    assert run("use", url).returncode == 0
    assert run("models").stdout == "echo\n"
    status = run("status").stdout
    assert "worker   studio.echo." in status
    worker = next(line.split()[1] for line in status.splitlines() if line.startswith("worker"))
    for action in ("drain", "load", "unload", "revoke"):
        with pytest.raises(ConfigError, match="nosuch") as missing:
            RemoteGateway(url, KEY).act(action, "nosuch")
        assert exit_status(missing.value) == NOT_THERE, action
    drained = run("drain", worker)
    assert (drained.returncode, drained.stdout) == (0, f"{worker} drains\n"), drained.stderr
    wait_until(lambda: "echo" not in gateway.ready(), "it has drained")
    unknown = run("revoke", "mac9")
    assert (unknown.returncode, len(unknown.stderr.splitlines())) == (NOT_THERE, 1)
    assert "no host that joined is called 'mac9'" in unknown.stderr


def test_what_is_no_action_is_refused_in_one_line(gateway: Served) -> None:
    for method, path, status in (
        ("POST", "/admin/explode/x", 404),
        ("POST", "/admin/drain", 404),
        ("GET", "/admin/drain/x", 405),
        ("POST", "/admin/drain/nobody", 404),
        ("POST", "/admin/revoke/nobody", 404),
        ("POST", "/admin/load/nothing", 404),
    ):
        reply = gateway.call(method, path)
        assert (reply.status, "error" in reply.json) == (status, True), (path, reply.json)
    assert gateway.get("/admin/hosts").json == {"hosts": []}
    assert gateway.call("GET", "/admin/hosts", headers={"authorization": "Bearer no"}).status == 401
