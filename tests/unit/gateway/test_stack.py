"""The parts of `up` that need no child process."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.command.runfile import Running, only_one, read_running, write_running
from gateway.command.stack import check_redis, describe_model, listen, next_lines, record_of
from shared import wire
from shared.config import load_settings
from shared.errors import ConfigError
from shared.registry import HostRecord, ModelRecord
from tests.support.sealed import host_seal, sealed_host


def test_what_runs_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    assert read_running(tmp_path) is None
    running = Running(pid=os.getpid(), url="http://127.0.0.1:1", redis_url="unix://:pw@/r.sock")
    path = write_running(tmp_path, running)
    assert read_running(tmp_path) == running
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # a leftover that others can read must not keep that
    write_running(tmp_path, running)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_lost_machine_left_behind_does_not_count_as_running(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_running(tmp_path, Running(pid=ended.pid, url="http://127.0.0.1:1", redis_url="unix://:pw@/gone.sock"))
    assert read_running(tmp_path) is None


def test_a_state_folder_has_one_up_at_a_time(tmp_path: Path) -> None:
    write_running(tmp_path, Running(pid=os.getpid(), url="http://127.0.0.1:1", redis_url=""))
    with only_one(tmp_path):
        with pytest.raises(ConfigError, match=rf"already up.*pid {os.getpid()}.*http://127\.0\.0\.1:1.*--state"):
            with only_one(tmp_path):
                pass
    with only_one(tmp_path):
        pass


def test_a_hosts_models_are_read_from_its_record_and_anything_else_is_no_record() -> None:
    record = HostRecord(host="h", pid=1, models=(ModelRecord(id="m", state="ready"),), faults=("a fault",))
    assert record_of(sealed_host(record), host_seal("h")) == record
    assert [record_of(data, host_seal("h")) for data in (None, b"", b"\xc1", wire.encode("text"))] == [None] * 4


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*--port"):
            listen(load_settings({"port": port}, environ={}))


def test_port_0_takes_a_free_one() -> None:
    with listen(load_settings({"port": 0}, environ={})) as listener:
        assert listener.getsockname()[1] > 0


def test_a_redis_that_does_not_answer_is_said(tmp_path: Path) -> None:
    settings = replace(load_settings(environ={}), redis_url=f"unix://{tmp_path}/absent.sock")
    with pytest.raises(ConfigError, match="REDIS_URL"):
        check_redis(settings)


def test_a_redis_that_answers_is_accepted(redis_url: str) -> None:
    check_redis(replace(load_settings(environ={}), redis_url=redis_url))


def test_a_model_that_failed_says_why_and_where_it_was_looked_for() -> None:
    record = ModelRecord(id="m", state="failed", source="/models/m", reason="no config.json")
    assert describe_model(record) == "m failed (/models/m): no config.json"
    assert describe_model(ModelRecord(id="m", state="loading", load_done=0.4)) == "loading m: 40%"
    assert describe_model(ModelRecord(id="m", state="ready", is_pinned=True)) == "m is ready (pinned)"
    refused = ModelRecord(id="m", state="no_memory", reason="why", needed_bytes=12 * 10**9, free_bytes=4 * 10**9)
    assert describe_model(refused) == "m has no memory: it needs 12.00 GB, there are 4.00 GB (why)"


def test_a_person_is_told_what_to_type_next() -> None:
    said = "\n".join(next_lines("http://127.0.0.1:8080"))
    assert "mlx-gateway launch claude" in said
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:8080;" in said
    assert "OPENAI_BASE_URL=http://127.0.0.1:8080/v1" in said
