"""The MLX engine tells which named prefixes of its prompts it holds, in memory and in files, by where they end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.intake.chain import build_chain
from gateway.intake.tags import Tagger
from shared import wire
from shared.messages import Message
from shared.request import GenerateRequest
from shared.trail import decode_trail
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from worker.prefix_cache.marks import Residents

HEAD = message("system", standard_library_text(9000))
FIRST = [HEAD, message("user", "one two three")]


def tagged(key: str, messages: list[Message]) -> GenerateRequest:
    """As a gateway sends it."""
    asked = request(key, messages, max_tokens=8)
    packed = wire.pack(asked)
    packed = replace(packed, packed=replace(packed.packed, chain=build_chain(asked, packed.packed)))
    return replace(asked, trail=Tagger(b"k" * 32).tagged(packed).trail)


def tags(asked: GenerateRequest) -> tuple[bytes, ...]:
    return decode_trail(asked.trail).messages


def told(driver: Driver) -> Residents:
    """As of now, not of a moment ago."""
    driver.engine.store._residents._seen_s = 0.0
    driver.engine.idle()
    return driver.engine.stats().residents


@pytest.mark.parametrize("preset", ["full", "hybrid"])
def test_each_message_of_a_conversation_is_resident_where_it_ends(
    preset: str, random_checkpoint: CheckpointMaker
) -> None:
    """Also where prefixes can be resumed at checkpoints alone: ends of messages are some."""
    driver = Driver(random_checkpoint(preset))
    turns = [*FIRST, message("assistant", "four five"), message("user", "six")]
    first, second = tagged("a", FIRST), tagged("b", turns)
    driver.run(first)
    prompt = driver.engine.prepare(first).payload.prompt
    system, end = (boundary.offset for boundary in prompt.boundaries)
    known = told(driver).memory
    assert (known[tags(first)[0]], known[tags(first)[1]]) == (system, end)
    head = [known[tag] for tag in decode_trail(first.trail).system_first if tag in known]
    assert all(0 < depth < system for depth in head)
    (answer,) = driver.run(second)
    assert answer.usage.cached_tokens >= end, "what was told was true"
    assert set(tags(second)) <= told(driver).memory.keys()
    driver.engine.unload()


def test_a_prefix_that_was_evicted_is_told_no_longer(random_checkpoint: CheckpointMaker) -> None:
    driver = Driver(random_checkpoint("full"))
    first = tagged("a", FIRST)
    driver.run(first)
    assert tags(first)[0] in told(driver).memory
    driver.engine.store.shrink(0)
    assert told(driver) == Residents()
    driver.engine.unload()


def test_files_tell_after_a_restart_what_they_hold(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    folder, first = random_checkpoint("full"), tagged("a", FIRST)
    before = Driver(folder, state_dir=tmp_path, ssd_cache_bytes=1 << 30)
    before.run(first)
    before.engine.store.flush(10)
    stored = told(before).stored
    assert set(tags(first)) <= stored.keys()
    before.engine.unload()
    after = Driver(folder, state_dir=tmp_path, ssd_cache_bytes=1 << 30)
    assert told(after) == Residents(stored=stored)
    after.engine.unload()
