"""A long run in small: nothing grows that should not."""

from __future__ import annotations

import gc
import os
import random
import threading
from pathlib import Path

import mlx.core as mx
import pytest

from shared.messages import Message
from shared.request import GenerateRequest, SamplingParams
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker

CACHE_BYTES, DISK_BYTES = 2_000_000, 4_000_000


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def chatter(dice: random.Random, number: int, heads: list[Message]) -> GenerateRequest:
    """A request of any kind: long and short, shared and new heads, every priority and tenant, sampled or not."""
    head = dice.choice(heads) if dice.random() < 0.7 else message("system", f"{number} {standard_library_text(2500)}")
    turns = [
        message("user" if turn % 2 == 0 else "assistant", f"turn {turn} " * 5) for turn in range(dice.randrange(5))
    ]
    sampling = SamplingParams(
        max_tokens=dice.randrange(1, 30),
        temperature=dice.choice([0.0, 1.0]),
        frequency_penalty=dice.choice([0.0, 0.3]),
        top_logprobs=dice.choice([None, 2]),
        stop=dice.choice([(), ("e ",)]),
    )
    return request(
        str(number),
        [head, *turns, message("user", f"question {dice.randrange(20)}")],
        sampling=sampling,
        priority=dice.choice(["interactive", "subagent", "side", "batch"]),
        tenant=dice.choice(["", "other"]),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("preset", ["full", "window", "qwen3-next"])
def test_hundreds_of_requests_and_cancellations_leave_nothing_behind(
    preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    dice = random.Random(1)
    driver = Driver(
        random_checkpoint(preset),
        state_dir=tmp_path,
        cache_bytes=CACHE_BYTES,
        ssd_cache_bytes=DISK_BYTES,
        prefill_step_tokens=256,
    )
    heads = [message("system", f"head {number} {standard_library_text(2000 + 500 * number)}") for number in range(3)]
    running: list[str] = []
    marks: list[tuple[int, int, int]] = []
    for number in range(450):
        driver.submit(chatter(dice, number, heads))
        running.append(str(number))
        for _ in range(dice.randrange(25)):
            driver.step()
        if dice.random() < 0.2:
            driver.engine.cancel(dice.choice(running))
        if number % 150 == 149:
            driver.step_until(lambda: not driver.engine.has_work())
            driver.engine.store.flush(30)
            driver.check()
            gc.collect()
            mx.clear_cache()
            beside_cache = mx.get_active_memory() - driver.engine.store.nbytes  # which is full at times, at times not
            marks.append((beside_cache, open_files(), threading.active_count()))
            print("beside the cache:", beside_cache, "bytes")
    _, (memory, files, threads), (memory_after, files_after, threads_after) = marks
    assert memory_after <= memory + 500_000
    assert (files_after, threads_after) == (files, threads)
    stats = driver.engine.stats()
    assert stats.cache_bytes <= CACHE_BYTES
    assert stats.metrics["prefix_cache_disk_bytes"] <= DISK_BYTES
    assert stats.metrics["prefix_cache_evictions"] > 0
    assert stats.metrics["prefix_cache_restored_tokens"] > 0
    driver.engine.unload()
    on_disk = [path for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".tmp", ".damaged")]
    assert {path.suffix for path in on_disk} == {".safetensors"}
    assert sum(path.stat().st_size for path in on_disk) <= DISK_BYTES
