"""The disk tier in adverse circumstances: whatever happens to it, answers are the same and the engine goes on."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shared.messages import Message
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import REPOSITORY, CheckpointMaker, some
from worker.cache_files.file_format import DamagedFileError, check_file, read_info
from worker.engines.mlx.kv.disk import DiskTier

HEAD = message("system", standard_library_text(3000))
CONVERSATION = [HEAD, message("user", "one two three")]
NEXT = [*CONVERSATION, message("assistant", "four five"), message("user", "six")]


def files(state: Path, suffix: str = ".safetensors") -> list[Path]:
    return sorted(state.rglob(f"*{suffix}"))


def start(folder: Path, state: Path, **settings: Any) -> Driver:
    return Driver(folder, state_dir=state, **{"ssd_cache_bytes": 1 << 30, **settings})


def say(driver: Driver, key: str, messages: list[Message] = CONVERSATION) -> list[int]:
    driver.run(request(key, messages))
    driver.engine.store.flush(10)
    return driver.tokens[key]


@pytest.fixture
def folder(random_checkpoint: CheckpointMaker) -> Path:
    return random_checkpoint("full")


_LITTLE_SPACE = """
import resource, sys
from pathlib import Path
from tests.unit.worker.test_mlx_disk_trouble import CONVERSATION, start, say, files
driver = start(Path(sys.argv[1]), Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
print(say(driver, "a"))
print(driver.engine.stats().metrics["prefix_cache_disk_bytes"], len(files(Path(sys.argv[2]), ".tmp")))
driver.engine.unload()
"""


def test_a_write_that_breaks_off_leaves_no_half_file_and_costs_the_copy_only(folder: Path, tmp_path: Path) -> None:
    whole = Driver(folder)
    ended = subprocess.run(
        [sys.executable, "-c", _LITTLE_SPACE, str(folder), str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    tokens, figures = ended.stdout.splitlines()
    assert tokens == str(say(whole, "a"))
    assert figures == "0 0"
    assert files(tmp_path) == []


def test_after_a_failure_writing_goes_on_with_everything_that_was_missed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = start(folder, tmp_path)
    disk = driver.engine.store._disk
    assert disk is not None
    (cache,) = (tmp_path / "cache").iterdir()
    cache.rmdir()
    cache.touch()
    with caplog.at_level(logging.WARNING, "worker.engines.mlx.kv.disk"):
        say(driver, "a")
        say(driver, "b", NEXT)
    assert len(caplog.records) == 1, "one warning for one trouble"
    assert not disk.is_writable
    cache.unlink()
    disk.pause_s = 0.0
    disk.write_failed(OSError(), 0)
    say(driver, "c", [message("system", "else " + standard_library_text(1000))])
    for _ in range(5):  # parents first, their children after them
        driver.engine.store.flush(10)
    tokens = driver.tokens["b"]
    driver.engine.unload()
    later = start(folder, tmp_path)
    (answer,) = later.run(request("d", NEXT))
    assert answer.usage.restored_tokens > 0.9 * answer.usage.input_tokens
    assert later.tokens["d"] == tokens
    later.engine.unload()


def test_a_full_disk_makes_the_tier_smaller(folder: Path, tmp_path: Path) -> None:
    driver = start(folder, tmp_path)
    disk = driver.engine.store._disk
    assert disk is not None
    say(driver, "a")
    stored = driver.engine.store.index.stored_bytes
    disk.write_failed(OSError(28, "No space left on device"), stored)
    assert disk.max_bytes < stored
    driver.engine.unload()


def test_where_no_folder_can_be_made_nothing_is_kept_on_disk(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    driver = start(folder, tmp_path)
    (answer,) = driver.run(request("a", CONVERSATION)) and driver.run(request("b", CONVERSATION))
    assert answer.usage.cached_tokens == answer.usage.input_tokens - 1
    driver.engine.unload()


def test_two_workers_of_one_model_share_the_folder_and_outlive_each_others_evictions(
    folder: Path, tmp_path: Path
) -> None:
    one = start(folder, tmp_path)
    tokens = say(one, "a")
    two = start(folder, tmp_path, cache_bytes=1)
    for path in files(tmp_path):
        path.unlink()  # as the other's eviction does
    assert say(two, "b") == tokens
    assert say(one, "c", NEXT) == say(two, "d", NEXT)
    one.engine.unload()
    two.engine.unload()
    assert all(read_info(path) for path in files(tmp_path)), "no empty file came back to life"
    assert files(tmp_path, ".tmp") == []


def test_a_file_that_goes_while_the_folder_is_looked_through_is_no_matter(folder: Path, tmp_path: Path) -> None:
    first = start(folder, tmp_path)
    tokens = say(first, "a")
    first.engine.unload()
    (cache,) = (tmp_path / "cache").iterdir()
    (cache / "0000.safetensors").symlink_to(cache / "gone")  # listed, but not there when it is looked at
    second = start(folder, tmp_path)
    assert say(second, "b") == tokens
    second.engine.unload()


def test_what_is_no_file_in_the_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    first = start(folder, tmp_path)
    tokens = say(first, "a")
    first.engine.unload()
    (cache,) = (tmp_path / "cache").iterdir()
    for name in ("folder", "folder.safetensors"):
        (cache / name / "below").mkdir(parents=True)
        os.utime(cache / name, (0, 0))
    second = start(folder, tmp_path)
    assert say(second, "b") == tokens
    assert second.engine.stats().metrics["prefix_cache_disk_bytes"] > 0
    second.engine.unload()
    assert (cache / "folder" / "below").is_dir()


def test_a_folder_that_a_person_removed_is_made_again(folder: Path, tmp_path: Path) -> None:
    driver = start(folder, tmp_path)
    say(driver, "a")
    shutil.rmtree(tmp_path / "cache")
    tokens = say(driver, "b", [message("system", standard_library_text(2000)), message("user", "one")])
    driver.engine.unload()
    assert files(tmp_path)
    again = start(folder, tmp_path)
    assert say(again, "c", [message("system", standard_library_text(2000)), message("user", "one")]) == tokens
    again.engine.unload()


def test_what_a_wrong_clock_wrote_does_not_stay_young_for_ever(folder: Path, tmp_path: Path) -> None:
    first = start(folder, tmp_path)
    say(first, "a")
    first.engine.unload()
    future_s = time.time() + 365 * 86400
    kept = files(tmp_path)
    leftover = kept[0].with_name("dead.tmp")
    leftover.write_bytes(b"half")
    for path in (*kept, leftover):
        os.utime(path, (future_s, future_s))
    second = start(folder, tmp_path)
    (answer,) = second.run(request("b", CONVERSATION))
    assert answer.usage.restored_tokens > 0
    assert all(path.stat().st_mtime < time.time() + 60 for path in kept)
    assert not leftover.exists()
    second.engine.unload()


def test_every_damaged_byte_of_a_file_shows(folder: Path, tmp_path: Path) -> None:
    driver = start(folder, tmp_path)
    say(driver, "a")
    driver.engine.unload()
    path = min(files(tmp_path), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in (*range(header), *range(header, len(whole), 997)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError):
            check_file(path)


@pytest.mark.parametrize("lie", [b"[]      ", b"3       ", b'{"a":[]}', b"[" * 4096, b'"x"     '])
def test_json_that_is_no_header_is_damage(lie: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(lie).to_bytes(8, "little") + lie)
    for read in (check_file, read_info):
        with pytest.raises(DamagedFileError):
            read(path)


def test_other_weights_under_the_same_path_find_nothing(random_checkpoint: CheckpointMaker, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(random_checkpoint("full"), place)
    first = start(place, tmp_path / "state")
    say(first, "a")
    first.engine.unload()
    shutil.rmtree(place)
    shutil.copytree(random_checkpoint("full", seed=1), place)
    second = start(place, tmp_path / "state")
    (answer,) = second.run(request("b", CONVERSATION))
    assert answer.usage.cached_tokens == 0
    assert second.tokens["b"] == say(Driver(random_checkpoint("full", seed=1)), "c")
    second.engine.unload()


def test_another_template_on_the_same_weights_takes_only_what_is_the_same(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    first = start(place, tmp_path / "state")
    say(first, "a")
    first.engine.unload()
    (template,) = (path for path in place.iterdir() if path.name.startswith("chat_template"))
    template.write_text("changed " + template.read_text())
    second = start(place, tmp_path / "state")
    tokens = say(second, "b")
    second.engine.unload()
    assert tokens == say(Driver(place), "c")


HUGE = 10**15
SOME = (CONVERSATION, NEXT, CONVERSATION, NEXT[1:])


@functools.cache
def plain_answers(folder: Path) -> list[list[int]]:
    driver = Driver(folder)
    return [say(driver, str(number), messages) for number, messages in enumerate(SOME)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"cache_block_tokens": 1},
        {"cache_block_tokens": HUGE},
        {"cache_max_slots": 0},
        {"cache_max_slots": HUGE},
        {"cache_min_reuse_tokens": 0},
        {"cache_min_reuse_tokens": HUGE},
        {"cache_max_tokens": 0},
        {"cache_max_tokens": HUGE},
        {"cache_bytes": 1},
        {"cache_bytes": HUGE},
        {"ssd_cache_bytes": 1},
        {"ssd_cache_bytes": HUGE},
        {"prefill_step_tokens": 1},
        {"decode_stall_target_ms": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("preset", some(("full", "hybrid"), "full"))
def test_extreme_settings_change_no_answer(
    settings: dict[str, Any], preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    extreme = start(folder, tmp_path, **settings)
    answers = [say(extreme, str(number), messages) for number, messages in enumerate(SOME)]
    assert answers == plain_answers(folder)
    assert extreme.engine.stats().cache_bytes <= extreme.engine.store.max_bytes
    extreme.engine.unload()


@pytest.mark.slow
@pytest.mark.parametrize("preset", some(("full", "window", "hybrid"), "hybrid"))
def test_the_cache_stays_within_its_bytes_while_requests_run(preset: str, random_checkpoint: CheckpointMaker) -> None:
    """Even what the running request itself needs of it is no excuse."""
    driver = Driver(random_checkpoint(preset), cache_bytes=700_000, prefill_step_tokens=64)
    turns = [message("user" if n % 2 == 0 else "assistant", standard_library_text(700)) for n in range(13)]
    driver.submit(request("a", [HEAD, *turns]), request("b", [message("system", "else"), *turns]))
    most = 0
    while driver.engine.has_work():
        driver.step()
        most = max(most, driver.engine.store.nbytes)
    assert 600_000 < most <= 700_000
    assert driver.engine.stats().metrics["prefix_cache_unkept_tokens"] > 0, "they need more"
    driver.check()


def test_files_that_were_to_go_go_also_when_the_tier_is_closed_before_it_came_to_them(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, max_bytes=1)
    blocked, keys = threading.Event(), [bytes([number]) * 16 for number in range(3)]
    for key in keys:
        (tmp_path / f"{key.hex()}.safetensors").touch()
    tier._writer.submit(blocked.wait)
    for key in keys:
        tier.delete(key)
    closing = threading.Thread(target=tier.close)
    closing.start()
    blocked.set()
    closing.join(10)
    assert list(tmp_path.iterdir()) == []
