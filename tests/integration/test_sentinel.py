"""A whole stack on Redis behind Sentinel: real servers, three real sentinels, fail-overs while answers are given."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.redis_fleet import Watched, watched
from tests.support.up import Up, message, run_command, up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
_WORDS = 400


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, Up]]:
    folder: Path = tmp_path_factory.mktemp("sentinel")
    config = folder / "config"
    config.mkdir()
    model = {"id": "paced", "source": "paced", "engine": "echo", "options": {"step_ms": 25}}
    (config / "models.json").write_text(json.dumps({"models": [model]}))
    with watched(folder / "redis") as servers:
        with up(folder, "--config", str(config), env={"REDIS_URL": servers.url}) as running:
            running.wait_until_ready()
            yield servers, running


class _Stream(threading.Thread):
    """Reads an answer of `_WORDS` words to its end."""

    def __init__(self, stack: Up) -> None:
        super().__init__(daemon=True)
        body = message(f"echo:words {_WORDS}", stream=True) | {"max_tokens": 10_000}
        self._connection = stack.open("POST", "/v1/messages", body, timeout_s=60)
        self.text, self.end = "", ""
        self.start()

    def run(self) -> None:
        with self._connection.getresponse() as response:
            for line in response:
                self._hear(line)
        self._connection.close()

    def _hear(self, line: bytes) -> None:
        if line.startswith(b"data: "):
            event = json.loads(line.removeprefix(b"data: "))
            self.text += event.get("delta", {}).get("text") or ""
            self.end = event["type"] if event["type"] in ("message_stop", "error") else ""

    def check(self) -> None:
        self.join(60)
        assert (self.end, self.text) == ("message_stop", " ".join(f"word{number}" for number in range(_WORDS)))


def _asked(stack: Up, count: int) -> list[int]:
    """Statuses of short requests, one after the other."""
    return [stack.say("echo:words 3")[0] for _ in range(count)]


def test_a_stream_goes_on_and_new_requests_wait_while_the_master_is_killed_and_replaced(
    fleet: tuple[Watched, Up],
) -> None:
    servers, stack = fleet
    stream = _Stream(stack)
    wait_until(lambda: "word20" in stream.text, "it has begun")
    was = servers.master()
    assert was is not None
    was.kill()
    statuses = _asked(stack, 3)  # the first of them while there is no master
    assert servers.master() is not was
    stream.check()
    assert statuses == [200] * 3
    told = run_command("status", "--state", str(stack.state))
    assert told.returncode == 0, told.stderr
    assert "paced" in told.stdout
    replaced = run_command("doctor", "--state", str(stack.state), env={"REDIS_URL": servers.url})
    assert "know fleet" in replaced.stdout, replaced.stdout


def test_a_master_that_hangs_is_left_and_what_it_says_afterwards_hurts_nobody(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    model = {"id": "paced", "source": "paced", "engine": "echo", "options": {"step_ms": 25}}
    (config / "models.json").write_text(json.dumps({"models": [model]}))
    with watched(tmp_path / "redis") as servers:
        with up(tmp_path, "--config", str(config), env={"REDIS_URL": servers.url}) as stack:
            stack.wait_until_ready()
            stream = _Stream(stack)
            wait_until(lambda: "word20" in stream.text, "it has begun")
            was = servers.master()
            assert was is not None
            was.signal(signal.SIGSTOP)
            wait_until(lambda: servers.master() not in (None, was), "another is the master", deadline_s=30)
            wait_until(lambda: _is_answered(stack), "new requests are answered", deadline_s=30)
            stream.check()
            was.signal(signal.SIGCONT)
            wait_until(lambda: was.role() == "slave", "it has heard that it is none any more", deadline_s=30)
            assert _asked(stack, 3) == [200] * 3


def _is_answered(stack: Up) -> bool:
    try:
        return stack.say("echo:words 3")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
