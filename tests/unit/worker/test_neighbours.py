"""Workers of one host tell each other what they hold; the dead tell nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.models import REPOSITORY
from tests.support.processes import wait_until
from worker.device.neighbours import Neighbours
from worker.device.sharing import Holding

_WRITER = """
import sys
from pathlib import Path
from worker.device.neighbours import Neighbours
from worker.device.sharing import Holding
mine = Neighbours(Path(sys.argv[1]))
mine.publish(Holding(base_bytes=7, running_bytes=8, spare_bytes=9))
print("there", flush=True)
number = 0
while sys.argv[2] == "busy":
    number += 1
    mine.publish(Holding(base_bytes=number, running_bytes=number, spare_bytes=number, wanted_bytes=number))
sys.stdin.readline()
"""


@contextmanager
def writer(folder: Path, mood: str = "calm") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder), mood],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Neighbours]:
    neighbours = Neighbours(tmp_path)
    yield neighbours
    neighbours.close()


def records(folder: Path) -> int:
    return len(list(folder.glob("*.memory")))


def test_a_worker_alone_has_no_neighbours(mine: Neighbours) -> None:
    mine.publish(Holding(base_bytes=1))
    assert mine.others() == []


def test_another_process_shows_until_it_is_killed_and_its_record_goes(mine: Neighbours, tmp_path: Path) -> None:
    with writer(tmp_path) as process:
        (other,) = wait_until(mine.others, "the other is seen")
        assert other == Holding(base_bytes=7, running_bytes=8, spare_bytes=9)
        process.kill()
        process.wait()
        wait_until(lambda: not mine.others(), "the dead is forgotten")
    assert records(tmp_path) == 1


def test_whoever_leaves_is_gone_and_takes_its_record_along(mine: Neighbours, tmp_path: Path) -> None:
    other = Neighbours(tmp_path)
    wait_until(mine.others, "the other is seen")
    other.close()
    other.close()
    assert records(tmp_path) == 1
    wait_until(lambda: not mine.others(), "it is forgotten")


def test_what_the_dead_left_before_the_start_does_not_count(tmp_path: Path) -> None:
    with writer(tmp_path):
        pass
    assert records(tmp_path) == 1
    later = Neighbours(tmp_path)
    assert later.others() == []
    later.close()
    assert records(tmp_path) == 0


def test_no_record_is_ever_read_half_written(mine: Neighbours, tmp_path: Path) -> None:
    with writer(tmp_path, "busy"):
        wait_until(mine.others, "the other is seen")
        seen = [mine.others()[0] for _ in range(20_000)]
    assert all(o.base_bytes == o.running_bytes == o.spare_bytes for o in seen if o.wanted_bytes)
    assert [o.base_bytes for o in seen] == sorted(o.base_bytes for o in seen)
    assert len({o.base_bytes for o in seen}) > 5


def test_a_file_that_never_got_its_record_is_removed(mine: Neighbours, tmp_path: Path) -> None:
    empty, fresh = tmp_path / "1-dead.memory", tmp_path / "2-starting.memory"
    for path in (empty, fresh):
        path.touch()
    long_ago_s = time.time() - 3600
    os.utime(empty, (long_ago_s, long_ago_s))
    assert mine.others() == []
    assert not empty.exists()
    assert fresh.exists()


def test_a_record_is_its_owners_alone(mine: Neighbours, tmp_path: Path) -> None:
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_telling_and_asking_at_every_step_costs_next_to_nothing(mine: Neighbours, tmp_path: Path) -> None:
    """Under a hundredth of the shortest step that matters, 10 ms; the median, as the machine may be busy."""
    with writer(tmp_path), writer(tmp_path):
        wait_until(lambda: len(mine.others()) == 2, "both are seen")
        took_s = []
        for number in range(2000):
            began_s = time.perf_counter()
            mine.publish(Holding(base_bytes=number))
            mine.others()
            took_s.append(time.perf_counter() - began_s)
    assert sorted(took_s)[len(took_s) // 2] < 1e-4
