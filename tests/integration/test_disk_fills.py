"""The disk of the state folder fills while a whole stack serves: answers go on, people are told, and what waits is
written when there is room. On a small file system in memory, which takes root to make."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.support.processes import wait_until
from tests.support.up import run_command, up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
_STEP_BYTES = 4096


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a file system of its own takes root on Linux")
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(_STEP_BYTES))
        except OSError:
            return


def test_answers_go_on_it_is_told_and_what_waits_is_written_later(small: Path) -> None:
    filler = small / "filler"
    with up(small) as stack:
        stack.wait_until_ready()
        assert stack.say("echo:words 3")[0] == 200
        _fill(filler)
        stack.process.wait_for_line(r"^disk: nothing can be written to .*: No space left on device; answers go on")
        assert [stack.say("echo:words 3")[0] for _ in range(5)] == [200] * 5
        item = {"custom_id": "a", "params": {"model": "echo", "max_tokens": 9, "messages": []}}
        status, refused = stack.request("POST", "/v1/messages/batches", {"requests": [item] * 1})
        assert status in (503, 529), orjson.dumps(refused)
        told = run_command("status", "--state", str(stack.state))
        assert "disk     nothing can be written" in told.stdout, told.stdout + told.stderr
        examined = run_command("doctor", "--state", str(stack.state))
        assert "nothing can be kept in" in examined.stdout
        filler.unlink()
        stack.process.wait_for_line(r"^disk: there is room again$", deadline_s=30)
        used = wait_until(
            lambda: run_command("key", "usage", "--state", str(stack.state)).stdout, "usage is written", deadline_s=60
        )
        assert used
        assert stack.stop() == 0
