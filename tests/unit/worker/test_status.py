"""What a worker says to its supervisor, and how it is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import ConfigError, WireError
from shared.keys import host_of, word, worker_name
from worker.__main__ import build_spec, parse_arguments
from worker.status import Status, StatusPipe, parse_status


@pytest.mark.parametrize(
    "status",
    [
        Status(state="loading", done=0.25, worker="w"),
        Status(state="ready", worker="w"),
        Status(state="failed", reason="no config.json\nin /models/x", code="model_unavailable"),
    ],
)
def test_a_status_arrives_as_it_was_sent(status: Status) -> None:
    reader, writer = os.pipe()
    try:
        StatusPipe(writer).send(status)
        line = os.read(reader, 65536)
    finally:
        os.close(reader)
        os.close(writer)
    assert line.count(b"\n") == 1
    assert parse_status(line) == status


def test_a_long_reason_is_cut_so_that_its_line_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "said"
    with path.open("wb") as file:
        StatusPipe(file.fileno()).send(Status(state="failed", reason="\x00" * 1_000_000, code="model_unavailable"))
    line = path.read_bytes()
    assert line.count(b"\n") == 1
    assert len(line) < 64 * 1024  # the limit of `asyncio.StreamReader.readline`
    status = parse_status(line)
    assert status.code == "model_unavailable"
    assert status.reason.endswith("… (the worker's log has the rest)")


@pytest.mark.parametrize("line", [b"", b"ready", b"[]", b'{"state": "dancing"}', b'{"done": 1}', b'{"mood": "good"}'])
def test_what_is_no_status_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        parse_status(line)


def test_a_pipe_that_nobody_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        pipe = StatusPipe(writer)
        pipe.send(Status(state="ready"))
        pipe.send(Status(state="ready"))
    finally:
        os.close(writer)


def test_without_a_pipe_nothing_is_sent() -> None:
    StatusPipe().send(Status(state="ready"))


def test_a_workers_name_is_safe_in_keys_begins_with_its_host_and_holds_the_epoch() -> None:
    name = worker_name("Anna's Mac.local", "org/Model 7B:4bit", "1a2b")
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
    assert name.endswith(".1a2b")
    assert host_of(name) == word("Anna's Mac.local")


def test_the_arguments_make_the_model_spec() -> None:
    options = parse_arguments(["--model", "/models/tiny", "--engine", "echo", "--option", "a=b=c"])
    spec = build_spec(options)
    assert (spec.id, spec.source, spec.engine, spec.options) == ("tiny", "/models/tiny", "echo", {"a": "b=c"})


def test_an_option_without_value_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="fast"):
        build_spec(parse_arguments(["--model", "x", "--option", "fast"]))


_CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
from worker import status
status._TOLD_CHECK_S = status._PARENT_CHECK_S = 60.0  # nobody has looked in time
if sys.argv[2] == "polled":
    status._end_of, status._PARENT_CHECK_S = (lambda pid: open("/nowhere")), 0.01
parent = os.getppid()
print("waits", flush=True)
status.wait_for_parent(parent)
print("alone", flush=True)
"""
_PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:]]); sys.stdin.read()"


@pytest.mark.parametrize("how", ["told", "polled"])
def test_the_end_of_the_parent_is_seen_at_once(how: str) -> None:
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, "-c", _CHILD, root, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == b"waits\n"
        parent.stdin.close()
        assert parent.wait(30) == 0
        assert parent.stdout.readline() == b"alone\n"
