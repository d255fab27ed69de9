"""The disk tier: what was kept comes back, after memory was short and after the process died, or is computed again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.events import Completion
from shared.messages import Message, TextPart
from tests.models.random_checkpoint import standard_library_text
from tests.support.forging import forge, of_zeros
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import AGENT_FULL, REPOSITORY, CheckpointMaker, some
from tests.support.processes import wait_until
from worker.cache_files.file_format import DamagedFileError, Shape, _answers, check_file, read_info
from worker.engines.mlx.kv import reads, segment_file
from worker.engines.mlx.kv.disk import MAX_AGE_S, disk_budget

PRESETS = ("full", "window", "gpt-oss", "hybrid", "qwen3-next", "falcon-h1")
HEAD = message("system", standard_library_text(3000))
CONVERSATION = [HEAD, message("user", "one two three")]


def files(state: Path) -> list[Path]:
    return sorted(state.rglob("*.safetensors"))


A_TOKEN_A_STEP = {"drafting": "off"}  # a step behind one that took a draft may give none


def start(folder: Path, state: Path, **settings: object) -> Driver:
    return Driver(folder, state_dir=state, **{"ssd_cache_bytes": 1 << 30, **settings})


def stop(driver: Driver) -> None:
    driver.engine.unload()


def said(answer: Completion) -> str:
    return "".join(part.text for part in answer.parts if isinstance(part, TextPart))


def cold_tokens(folder: Path, messages: list[Message]) -> list[int]:
    driver = Driver(folder)
    driver.run(request("cold", messages))
    return driver.tokens["cold"]


@pytest.mark.parametrize("preset", some(PRESETS, "full", "hybrid"))
def test_a_new_process_goes_on_where_the_old_one_ended(
    preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    second = start(folder, tmp_path)
    longer = [*CONVERSATION, message("assistant", "four five"), message("user", "six")]
    same, next_turn = second.run(request("same", CONVERSATION)) + second.run(request("next", longer))
    assert same.usage.restored_tokens > 0.9 * same.usage.input_tokens
    assert next_turn.usage.cached_tokens > 0.9 * next_turn.usage.input_tokens
    assert second.tokens["same"] == first.tokens["a"]
    assert second.tokens["next"] == cold_tokens(folder, longer)
    stop(second)


@pytest.mark.parametrize("preset", some(("full", "hybrid"), "full"))
def test_what_left_memory_comes_back_from_disk(preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    driver = start(random_checkpoint(preset), tmp_path, cache_bytes=1_200_000)
    driver.run(request("a", CONVERSATION))
    driver.engine.store.flush(10)
    for number in range(6):
        driver.run(request(str(number), [message("system", f"{number} {standard_library_text(3000)}")]))
        driver.engine.store.flush(10)
    assert driver.engine.stats().cache_bytes <= 1_200_000
    (again,) = driver.run(request("again", CONVERSATION))
    assert again.usage.restored_tokens > 0.9 * again.usage.input_tokens
    assert driver.tokens["again"] == driver.tokens["a"]
    stop(driver)


def test_streams_go_on_while_a_prefix_is_read(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint("full")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    second = start(folder, tmp_path, options=A_TOKEN_A_STEP)
    second.submit(request("stream", [message("user", "talk")], max_tokens=200))
    second.step_until(lambda: len(second.tokens["stream"]) > 2)
    second.submit(request("restored", CONVERSATION))
    while not second.tokens["restored"]:
        before = len(second.tokens["stream"])
        second.step()
        assert len(second.tokens["stream"]) > before
    second.step_until(lambda: not second.engine.has_work())
    stop(second)


def test_a_large_file_is_taken_in_over_many_steps_in_each_of_which_streams_go_on(
    tmp_path: Path, random_checkpoint: CheckpointMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = random_checkpoint("full")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    nbytes = sum(path.stat().st_size for path in files(tmp_path))
    step_bytes, piece_bytes = nbytes // 40, nbytes // 400
    monkeypatch.setattr(reads, "STEP_BYTES", step_bytes)
    monkeypatch.setattr(segment_file, "PIECE_BYTES", piece_bytes)
    copied: list[int] = []
    copy = reads.Reads._copy

    def counted(self: reads.Reads, read: Any) -> int | None:
        count = copy(self, read)
        copied[-1] += count or 0
        return count

    monkeypatch.setattr(reads.Reads, "_copy", counted)
    second = start(folder, tmp_path, options=A_TOKEN_A_STEP)
    second.submit(request("stream", [message("user", "talk")], max_tokens=400))
    second.step_until(lambda: len(second.tokens["stream"]) > 2)
    second.submit(request("restored", CONVERSATION))
    while not second.tokens["restored"]:
        copied.append(0)
        before = len(second.tokens["stream"])
        second.step()
        assert len(second.tokens["stream"]) > before
    assert sum(count > 0 for count in copied) >= 30
    assert max(copied) <= step_bytes + 2 * piece_bytes
    second.step_until(lambda: not second.engine.has_work())
    assert second.tokens["restored"] == first.tokens["a"]
    stop(second)


@pytest.mark.parametrize("preset", some(("full", "hybrid"), "full"))
def test_a_conversation_in_many_files_is_read_into_one_buffer_with_room(
    preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    first = start(folder, tmp_path)
    messages = list(CONVERSATION)
    for turn in range(3):
        (answer,) = first.run(request(str(turn), messages))
        messages += [message("assistant", said(answer)), message("user", standard_library_text(600))]
    stop(first)
    assert len(files(tmp_path)) > 4
    second = start(folder, tmp_path)
    second.submit(request("next", messages))
    second.step_until(lambda: len(second.tokens["next"]) > 2)
    (buffer,) = second.engine.store._buffers
    assert buffer.is_lent
    second.step_until(lambda: not second.engine.has_work())
    second.check()
    assert second.tokens["next"] == cold_tokens(folder, messages)
    stop(second)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_answers_are_spelt_as_they_were_after_a_restart(is_damaged: bool, tmp_path: Path) -> None:
    """Their client sends no reasoning back. Where the files are damaged they are rendered anew."""
    first = start(AGENT_FULL, tmp_path)
    messages = [message("system", "You are kind and thorough. " * 40), message("user", "/think Hello")]
    for turn in range(2):
        (answer,) = first.run(request(str(turn), messages, max_tokens=120))
        assert answer.usage.reasoning_tokens > 0
        messages += [message("assistant", said(answer)), message("user", f"/think Go on {turn}")]
    prompt = first.engine.prepare(request("p", messages)).prompt_digest
    stop(first)
    spans = [span for path in files(tmp_path) for span in read_info(path).answers]
    assert len(spans) == 2
    for path in files(tmp_path) if is_damaged else ():
        flip_a_bit_of_the_header(path)
    second = start(AGENT_FULL, tmp_path)
    assert (second.engine.prepare(request("p", messages)).prompt_digest == prompt) is not is_damaged
    (answer,) = second.run(request("next", messages))
    assert (answer.usage.restored_tokens > answer.usage.input_tokens - 20) is not is_damaged
    stop(second)


def test_an_answer_that_is_given_again_is_noted_in_the_file_that_has_its_tokens(tmp_path: Path) -> None:
    """The first time its client left before the end, so nothing said that it was an answer."""
    driver = start(AGENT_FULL, tmp_path)
    asked = [message("system", "You are kind and thorough. " * 40), message("user", "/think Hello")]
    driver.submit(request("left", asked, max_tokens=120))
    driver.step_until(lambda: len(driver.tokens["left"]) >= 50)
    driver.engine.cancel("left")
    driver.engine.store.flush(10)
    assert not [span for path in files(tmp_path) for span in read_info(path).answers]
    (answer,) = driver.run(request("again", asked, max_tokens=49))
    assert answer.usage.output_tokens == 49
    driver.engine.store.flush(10)
    (span,) = (span for path in files(tmp_path) for span in read_info(path).answers)
    assert span.end - span.start + len(span.rest) == 49
    stop(driver)


def test_files_of_another_version_are_removed_without_a_word(
    tmp_path: Path, random_checkpoint: CheckpointMaker, caplog: pytest.LogCaptureFixture
) -> None:
    folder = random_checkpoint("full")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    kept = files(tmp_path)
    for path in kept:
        path.write_bytes(path.read_bytes().replace(b'"format": "3"', b'"format": "2"'))
    with caplog.at_level("INFO"):
        second = start(folder, tmp_path)
    assert not any(path.exists() for path in kept)
    assert not list(tmp_path.rglob("*.damaged"))
    assert "cache file" not in caplog.text
    stop(second)


def flip_a_bit_of_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def scribble(path: Path) -> None:
    path.write_bytes(b"not a safetensors file at all")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", some((flip_a_bit, cut_short, scribble, empty, Path.unlink), flip_a_bit, cut_short))
@pytest.mark.parametrize("preset", some(("full", "window", "hybrid"), "hybrid"))
def test_damaged_files_are_set_aside_and_computed_again(
    preset: str, damage: Callable[[Path], None], tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    second = start(folder, tmp_path)
    for path in files(tmp_path):
        damage(path)
    second.run(request("b", CONVERSATION))
    assert second.tokens["b"] == first.tokens["a"]
    stop(second)
    third = start(folder, tmp_path)
    (answer,) = third.run(request("c", CONVERSATION))
    assert answer.usage.restored_tokens > 0.9 * answer.usage.input_tokens
    stop(third)


def test_damaged_parents_at_start_cost_their_children_too(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint("full")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    (root,) = (path for path in files(tmp_path) if read_info(path).start == 0)
    scribble(root)
    second = start(folder, tmp_path)
    (answer,) = second.run(request("b", CONVERSATION))
    assert answer.usage.cached_tokens == 0
    assert second.tokens["b"] == first.tokens["a"]
    stop(second)
    assert root.with_suffix(".damaged").exists()


def test_a_file_under_anothers_name_is_refused(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint("full")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    first.run(request("b", [message("system", "else " + standard_library_text(3000))]))
    stop(first)
    one, other, *_ = (path for path in files(tmp_path) if read_info(path).start == 0)
    second = start(folder, tmp_path)
    one.write_bytes(other.read_bytes())
    second.run(request("a", CONVERSATION))
    second.run(request("b", [message("system", "else " + standard_library_text(3000))]))
    assert second.tokens["a"] == first.tokens["a"]
    assert second.tokens["b"] == first.tokens["b"]
    stop(second)


def test_disk_budget_holds_over_processes(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint("full")
    for life in range(3):
        driver = start(folder, tmp_path, ssd_cache_bytes=900_000)
        for number in range(4):
            driver.run(request(str(number), [message("system", f"{life}.{number} {standard_library_text(2000)}")]))
            driver.engine.store.flush(10)
        assert 0 < driver.engine.stats().metrics["prefix_cache_disk_bytes"] <= 900_000
        stop(driver)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 900_000


def test_files_not_used_for_long_and_leftovers_of_the_dead_are_removed(
    tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint("full")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    kept = files(tmp_path)
    long_ago_s = time.time() - MAX_AGE_S - 60
    for path in kept:
        os.utime(path, (long_ago_s, long_ago_s))
    leftover, fresh = kept[0].with_name("dead.tmp"), kept[0].with_name("alive.tmp")
    for path in (leftover, fresh):
        path.write_bytes(b"half")
    os.utime(leftover, (long_ago_s, long_ago_s))
    second = start(folder, tmp_path)
    assert files(tmp_path) == []
    assert not leftover.exists()
    assert fresh.exists()
    stop(second)


def test_tenants_stay_apart_on_disk(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint("full")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION, tenant="one"))
    stop(first)
    second = start(folder, tmp_path)
    (other,) = second.run(request("b", CONVERSATION, tenant="two"))
    (same,) = second.run(request("c", CONVERSATION, tenant="one"))
    assert (other.usage.cached_tokens, same.usage.cached_tokens > 0) == (0, True)
    stop(second)
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*.safetensors"))


def test_another_models_files_are_not_taken(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    first = start(random_checkpoint("full"), tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    second = start(random_checkpoint("full", seed=1), tmp_path)
    (answer,) = second.run(request("b", CONVERSATION))
    assert answer.usage.cached_tokens == 0
    stop(second)


def test_a_disk_that_fails_costs_the_copy_only(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    driver = start(random_checkpoint("full"), tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    folder.rmdir()
    folder.touch()
    driver.run(request("a", CONVERSATION))
    driver.engine.store.flush(10)
    (again,) = driver.run(request("b", CONVERSATION))
    assert again.usage.cached_tokens == again.usage.input_tokens - 1
    assert driver.engine.stats().metrics["prefix_cache_disk_bytes"] == 0
    stop(driver)


def test_negative_budget_means_no_disk(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    driver = start(random_checkpoint("full"), tmp_path, ssd_cache_bytes=-1)
    driver.run(request("a", CONVERSATION))
    stop(driver)
    assert not (tmp_path / "cache").exists()
    assert disk_budget(tmp_path, -1) == 0
    assert 0 < disk_budget(tmp_path / "not" / "there", 0) <= 64 << 30


_BUSY = """
import sys
from pathlib import Path
from tests.support.mlx_engine import Driver, message, request
from tests.models.random_checkpoint import standard_library_text
driver = Driver(Path(sys.argv[1]), state_dir=Path(sys.argv[2]), ssd_cache_bytes=1 << 30)
print("ready", flush=True)
for number in range(1000):
    text = standard_library_text(3000)
    driver.run(request(str(number), [message("system", text), message("user", f"question {number}")], max_tokens=3))
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("preset", some(("full", "hybrid"), "full"))
def test_killed_at_any_moment_it_leaves_nothing_that_misleads(
    preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    for life in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _BUSY, str(folder), str(tmp_path)], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == str(2 + 3 * life):
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    for path in files(tmp_path):
        check_file(path)
    messages = [message("system", standard_library_text(3000)), message("user", "question 2")]
    driver = start(folder, tmp_path)
    (answer,) = driver.run(request("a", messages))
    assert answer.usage.restored_tokens > 0.9 * answer.usage.input_tokens
    assert driver.tokens["a"] == cold_tokens(folder, messages)
    stop(driver)


def other_type(content: bytes) -> bytes:
    return content.replace(b'"F32"', b'"F99"')


def other_format(content: bytes) -> bytes:
    return content.replace(b'"format": "3"', b'"format": "0"')


def no_json(content: bytes) -> bytes:
    return content[:8] + b"[" + content[9:]


def endless_header(content: bytes) -> bytes:
    return b"\xff" * 8 + content[8:]


@pytest.mark.parametrize("lie", some((other_type, other_format, no_json, endless_header), endless_header))
def test_headers_that_lie_are_damage(
    lie: Callable[[bytes], bytes], tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint("full")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    for path in files(tmp_path):
        path.write_bytes(lie(path.read_bytes()))
    second = start(folder, tmp_path)
    second.run(request("b", CONVERSATION))
    assert second.tokens["b"] == first.tokens["a"]
    stop(second)


def of_more_numbers_a_token(shape: Shape) -> Shape:
    more = {name: of_zeros(dtype, (*axes[:-1], 2 * axes[-1])) for name, (dtype, axes, _) in shape.tensors.items()}
    return replace(shape, tensors=more)


def of_no_state(shape: Shape) -> Shape:
    """Though it is said that one can go on from there."""
    rest = {name: entry for name, entry in shape.tensors.items() if ".state." not in name}
    return replace(shape, tensors=rest, states="{}")


@pytest.mark.parametrize("lie", [of_more_numbers_a_token, of_no_state])
def test_whole_files_of_arrays_that_the_model_does_not_keep_are_set_aside_and_computed_again(
    lie: Callable[[Shape], Shape], tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint("hybrid")
    first = start(folder, tmp_path)
    first.run(request("a", CONVERSATION))
    stop(first)
    for path in files(tmp_path):
        forge(path, lie)
    second = start(folder, tmp_path)
    (answer,) = second.run(request("b", CONVERSATION))
    assert second.tokens["b"] == first.tokens["a"]
    assert answer.usage.restored_tokens == 0
    assert list(tmp_path.rglob("*.damaged"))
    assert second.engine.stats().metrics.get("prefix_cache_hits") == 0
    stop(second)


def answer_nowhere(answers: list[Any]) -> list[Any]:
    return [[*answer[:3], 10**9, *answer[4:]] for answer in answers]


def answer_in_no_numbers(answers: list[Any]) -> list[Any]:
    return [[*answer[:2], "0", *answer[3:]] for answer in answers]


@pytest.mark.parametrize("lie", [answer_nowhere, answer_in_no_numbers])
def test_a_file_that_lies_about_its_answers_is_damage(lie: Callable[[list[Any]], list[Any]]) -> None:
    good = [["ab", "", 2, 5, 7]]
    assert [(span.start, span.end, span.rest) for span in _answers(json.dumps(good), 5)] == [(2, 5, (7,))]
    with pytest.raises((DamagedFileError, TypeError)):
        list(_answers(json.dumps(lie(good)), 5))


def test_main_conversations_are_written_at_once_and_the_rest_in_an_idle_moment(
    tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    driver = start(random_checkpoint("full"), tmp_path)
    driver.submit(request("stream", [message("user", "talk")], max_tokens=10_000))
    asked = [
        request("side", [message("system", "side " + standard_library_text(2000))], priority="subagent"),
        request("main", [message("system", "main " + standard_library_text(2000))]),
    ]

    def written() -> set[str]:
        infos = [read_info(path) for path in files(tmp_path)]
        packed = {item.id: driver.engine.prepare(item).payload.packed for item in asked}
        return {key for key in packed for info in infos if not info.start and packed[key].startswith(info.tokens)}

    driver.submit(*asked)
    driver.step_until(lambda: not {"side", "main"} & set(driver.engine._sequences))
    driver.step_until(lambda: bool(files(tmp_path)))
    for _ in range(20):
        driver.step()
    assert written() == {"main"}
    driver.engine.cancel("stream")

    def all_are_written() -> bool:
        driver.engine.idle()
        return written() == {"main", "side"}

    wait_until(all_are_written, "the rest is written")
    stop(driver)


def test_what_a_main_conversation_goes_on_from_is_written_with_it(
    tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    """A subagent has computed the head that they share."""
    driver = start(random_checkpoint("full"), tmp_path)
    driver.submit(request("stream", [message("user", "talk")], max_tokens=10_000))
    driver.submit(request("side", CONVERSATION, priority="subagent"))
    driver.step_until(lambda: "side" not in driver.engine._sequences)
    for _ in range(20):
        driver.step()
    assert not files(tmp_path)
    longer = [HEAD, message("user", "one two three, and four")]
    driver.submit(request("main", longer))
    driver.step_until(lambda: "main" not in driver.engine._sequences)
    index = driver.engine.store.index
    length = driver.engine.prepare(request("main", longer)).prompt_tokens or 0
    driver.step_until(lambda: max((node.end for node in index.nodes() if node.stored), default=0) >= length)
    assert min(read_info(path).start for path in files(tmp_path)) == 0
    driver.engine.cancel("stream")
    stop(driver)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["window", "gemma3", "mamba2", "falcon-h1"])
def test_checkpoints_go_to_the_disk_where_memory_has_no_room_for_one(
    preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    driver = start(folder, tmp_path, cache_bytes=20_000)
    driver.run(request("a", CONVERSATION))
    driver.engine.store.flush(10)
    driver.check()
    assert not any(node.holds for node in driver.engine.store.index.nodes())
    assert driver.engine.store.nbytes <= 20_000
    longer = [*CONVERSATION, message("assistant", "four five"), message("user", "six")]
    (answer,) = driver.run(request("b", longer))
    assert answer.usage.restored_tokens > 0.9 * answer.usage.input_tokens
    assert driver.tokens["b"] == cold_tokens(folder, longer)
    stop(driver)
