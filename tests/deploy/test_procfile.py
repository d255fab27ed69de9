"""The Procfile, by honcho itself: a gateway and a host come up, answer, and go together."""

from __future__ import annotations

import http.client
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, descendants, free_port, is_running, running, wait_until
from tests.support.up import NO_SETTINGS, message


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(
            method, path, None if body is None else json.dumps(body), {"content-type": "application/json"}
        )
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def is_ready(port: int) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return ask(port, "GET", "/ready")[0] == 200
    return False


@pytest.mark.slow
def test_honcho_starts_what_answers_a_request_and_stops_all_of_it(tmp_path: Path, redis_url: str) -> None:
    port = free_port()
    env = {
        **NO_SETTINGS,
        "REDIS_URL": redis_url,
        "MODELS": "--engine echo",
        "MLX_GATEWAY_PORT": str(port),
        "MLX_GATEWAY_STATE_DIR": str(tmp_path / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    words = ("-m", "honcho", "--no-colour", "-f", str(REPOSITORY / "Procfile"), "start")
    with running(*words, log=tmp_path / "honcho.log", env=env) as honcho:
        wait_until(lambda: is_ready(port), "the gateway is ready", deadline_s=60)
        status, answer = ask(port, "POST", "/v1/messages", message("hello there"))
        assert status == 200
        assert "hello there" in answer.decode()
        processes = descendants(honcho.pid)
        honcho.stop()
        wait_until(lambda: not any(map(is_running, processes)), "nothing is left")
