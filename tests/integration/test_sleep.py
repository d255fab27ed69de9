"""A Mac that slept: everything of a stack stands still for longer than any lease lasts, and goes on. And one whose
clock is set by an hour, for all processes at once, Redis among them: forwards, all that lies there ends at once."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import is_running, wait_until
from tests.support.set_clock import COMPILER, SetClock
from tests.support.up import Up, message, up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
_SLEEP_S = 8.0
_WORDS = 300
_ALL = " ".join(f"word{number}" for number in range(_WORDS))


def _config(folder: Path) -> Path:
    config = folder / "config"
    config.mkdir()
    model = {"id": "paced", "source": "paced", "engine": "echo", "options": {"step_ms": 20}}
    (config / "models.json").write_text(json.dumps({"models": [model]}))
    return config


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Up]:
    config = _config(tmp_path)
    settings = {"MLX_GATEWAY_STALL_S": "3", "MLX_GATEWAY_EXECUTION_TTL_S": "5"}
    with up(tmp_path, "--config", str(config), env=settings) as running:
        running.wait_until_ready()
        yield running


@contextmanager
def _asleep(stack: Up) -> Iterator[None]:
    """All of its processes, as a machine's sleep stops them."""
    pids = [stack.process.pid, *sorted(stack.processes())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_worker_that_a_signal_has_stopped_is_replaced_by_its_host(stack: Up) -> None:
    (worker,) = _workers(stack)
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: not is_running(worker), "its host ends it", deadline_s=20)
    wait_until(lambda: stack.say("echo:words 3")[0] == 200, "another answers", deadline_s=30)
    assert worker not in _workers(stack)
    assert "stands still: killed" in (stack.state / "logs" / "host.log").read_text()


@pytest.mark.skipif(COMPILER is None, reason="needs Linux and a C compiler")
@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_an_answer_goes_on_when_the_clock_is_set(tmp_path: Path, jump_s: int) -> None:
    clock = SetClock.build(tmp_path / "clock")
    with up(tmp_path, "--config", str(_config(tmp_path)), env=clock.env) as stack:
        stack.wait_until_ready()
        workers = _workers(stack)
        assert _read(stack, at_word_40=lambda: clock.set_ahead(jump_s)) == ("message_stop", _ALL)
        wait_until(lambda: stack.say("echo:words 3")[0] == 200, "new requests are answered", deadline_s=20)
        assert _workers(stack) == workers


def _workers(stack: Up) -> set[int]:
    return {
        pid
        for pid in stack.processes()
        if b"worker\0--model" in Path(f"/proc/{pid}/cmdline").read_bytes() and b"guard" not in _command(pid)
    }


def _read(stack: Up, *, at_word_40: Callable[[], None]) -> tuple[str, str]:
    """Of an answer its last event, and all text. In its middle something is done."""
    connection = stack.open("POST", "/v1/messages", message(f"echo:words {_WORDS}", stream=True, max_tokens=9999))
    text, is_done, last = "", False, ""
    for line in connection.getresponse():
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line.removeprefix(b"data: "))
        text, last = text + (event.get("delta", {}).get("text") or ""), event["type"]
        if "word40" in text and not is_done:
            is_done = True
            at_word_40()
    connection.close()
    return last, text


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_an_answer_goes_on_when_its_machine_wakes_and_nobody_is_taken_for_dead(stack: Up) -> None:
    workers = _workers(stack)
    assert workers

    def sleep() -> None:
        with _asleep(stack):
            time.sleep(_SLEEP_S)

    assert _read(stack, at_word_40=sleep) == ("message_stop", _ALL)
    assert stack.say("echo:words 3")[0] == 200
    assert _workers(stack) == workers
    wait_until(lambda: stack.request("GET", "/ready")[0] == 200, "it is ready")
