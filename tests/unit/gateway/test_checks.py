"""What `doctor` says of machine, Redis, clocks, programs and models, and what to do about each."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from gateway.command.checks import programs
from gateway.command.checks.broker import check_broker, check_clock, check_server
from gateway.command.checks.finding import Finding
from gateway.command.checks.generation import check_generation, checked_kind
from gateway.command.checks.machine import check_disk, check_memory
from gateway.command.checks.programs import check_programs
from shared.config import Settings
from shared.work import KINDS, Embed, Speak


def test_memory_is_told_with_what_a_person_gave_to_the_gpu() -> None:
    found = check_memory(total=64_000_000_000, available=30_000_000_000, wired_mb=lambda: 57_344)
    assert found.is_fine
    assert "64.0 GB, 30.0 GB of it free; the GPU may use 60.1 GB" in found.text
    assert "GPU" not in check_memory(total=64_000_000_000, wired_mb=lambda: 0).text


def test_little_memory_is_a_remark_and_says_what_will_not_fit() -> None:
    found = check_memory(total=4_000_000_000, available=1, wired_mb=lambda: None)
    assert (found.is_fine, found.is_needed) == (False, False)
    assert "will not fit" in found.text


def test_a_disk_is_tried_by_writing_and_left_as_it_was(tmp_path: Path) -> None:
    assert "MB/s" in check_disk(tmp_path / "not" / "there").text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("skew_s", "is_fine"), [(0.1, True), (-1.9, True), (3.0, False), (-300.0, False)])
def test_a_clock_that_differs_is_a_remark(skew_s: float, is_fine: bool) -> None:
    found = check_clock(1000.0, 1000.0 + skew_s)
    assert found.is_fine is is_fine
    assert not found.is_needed or is_fine


def test_a_redis_that_throws_keys_away_is_a_fault_with_the_line_that_mends_it() -> None:
    told = {
        found.subject: found for found in check_server({"redis_version": "7.4.0", "maxmemory_policy": "allkeys-lru"})
    }
    assert told["redis version"].text == "Redis 7.4.0"
    assert told["redis memory"].is_needed
    assert "maxmemory-policy noeviction" in told["redis memory"].text


def test_a_redis_that_writes_everything_to_disk_or_has_no_limit_is_a_remark() -> None:
    info = {"server_name": "valkey", "valkey_version": "8.0.1", "aof_enabled": 1, "maxmemory": 0}
    told = {found.subject: found for found in check_server(info)}
    assert told["redis version"].text == "Valkey 8.0.1"
    assert "appendonly no" in told["redis persistence"].text
    assert "maxmemory 2gb" in told["redis memory"].text
    assert not any(found.is_needed for found in told.values() if not found.is_fine)


def test_gguf_models_need_no_program_where_the_wheel_has_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(version: Callable[[str], str]) -> Finding:
        monkeypatch.setattr(programs, "version", version)
        return next(found for found in check_programs() if found.subject == "llama-server")

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert found(lambda name: f"1.2 of {name}").is_fine
    assert "brew install llama.cpp" in found(missing).text


def test_a_real_redis_is_looked_at(redis_url: str) -> None:
    told = {found.subject: found for found in check_broker(Settings(redis_url=redis_url))}
    assert told["clock"].is_fine
    assert told["redis version"].is_fine
    assert "default" in told["redis user"].text


def test_a_redis_that_has_gone_is_a_fault() -> None:
    (found,) = check_broker(Settings(redis_url="redis://127.0.0.1:1/0"))
    assert found.is_needed
    assert not found.is_fine


def test_clients_are_told_with_their_version_or_the_line_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = tmp_path / "claude"
    agent.write_text("#!/bin/sh\necho 'banner'\necho '9.8.7 (Claude Code)'\n")
    agent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    told = {found.subject: found for found in check_programs()}
    assert told["claude"].text.startswith("9.8.7 (Claude Code)")
    assert "npm install -g" in told["codex"].text
    assert not any(found.is_needed for found in told.values() if not found.is_fine)


@contextmanager
def gateway(status: int, answer: object) -> Iterator[str]:
    """Stands in for a gateway; that a real one answers is shown by the test of a running stack."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_model_that_answers_is_fine_and_one_that_does_not_is_a_fault_in_the_gateways_words() -> None:
    with gateway(200, {"content": []}) as url:
        (found,) = check_generation(url, "key", ["qwen"])
    assert found.is_fine
    assert "a token after" in found.text
    with gateway(529, {"error": {"message": "the queue is full"}}) as url:
        (found,) = check_generation(url, "", ["qwen"])
    assert found.is_needed
    assert not found.is_fine
    assert "529: the queue is full" in found.text
    with gateway(401, {"error": {"message": "the API key is missing or wrong"}}) as url:
        (found,) = check_generation(url, "", ["qwen"])
    assert "set MLX_GATEWAY_API_KEY" in found.text
    with gateway(403, {"error": {"message": "the key 'a' may not use 'qwen'"}}) as url:
        (found,) = check_generation(url, "", ["qwen"])
    assert "set it to one that may" in found.text
    (found,) = check_generation("http://127.0.0.1:1", "", ["qwen"])
    assert "none came" in found.text


def test_a_model_is_asked_for_what_it_does_and_not_for_an_answer_that_it_never_writes() -> None:
    assert checked_kind(("generate", "count")) == "generate"
    assert checked_kind((KINDS[Embed].name,)) == "embed"
    assert checked_kind((KINDS[Speak].name,)) == ""
    with gateway(200, {"data": []}) as url:
        (found,) = check_generation(url, "", ["tiny"], "embed")
    assert found.is_fine
    assert "a vector after" in found.text
