"""Whose buffers are whose: nothing is copied that need not be, and whatever was restored is what was computed."""

from __future__ import annotations

import io
import random
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from shared.events import assemble
from shared.messages import Message
from shared.request import GenerateRequest
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker, some
from worker.cache_files.file_format import FileInfo
from worker.engines.mlx.kv.buffers import Buffer
from worker.engines.mlx.kv.cache import Layout, Segment, capture
from worker.engines.mlx.kv.classes import leaves
from worker.engines.mlx.kv.lease import Lease
from worker.engines.mlx.kv.segment_file import Export
from worker.engines.mlx.kv.store import PrefixStore
from worker.prefix_cache.tokens import pack_tokens

LAYERS, HEADS, DIM = 3, 2, 4
TOKEN_BYTES = LAYERS * 2 * HEADS * DIM * 4
HEAD = message("system", standard_library_text(4000))


class Model:
    """No model: as many full attention caches as it would have layers."""

    layers = (None,) * LAYERS


def numbers(tokens: list[int], start: int) -> mx.array:
    """Keys of tokens `start..`, [1, heads, tokens, dim]: what each is depends on all tokens before it."""
    values = [zlib.crc32(pack_tokens(tokens[: depth + 1])) % 10**6 for depth in range(start, len(tokens))]
    one = mx.array(values, mx.float32)[None, None, :, None]
    return mx.broadcast_to(one, (1, HEADS, len(values), DIM)) + mx.arange(HEADS)[None, :, None, None]


class Running:
    """A sequence that is computed: its cache says of each token what `numbers` says."""

    def __init__(self, store: PrefixStore, tokens: list[int]) -> None:
        self.store = store
        self.tokens = tokens
        self.lease: Lease = store.open("", pack_tokens([*tokens, 0]), weight=1.0)
        self.cache = store.restore(self.lease, needed=len(tokens) + 8, room=len(tokens) + 64)
        self.position = self.lease.depth
        self.check()

    def compute(self, count: int) -> None:
        end = min(self.position + count, len(self.tokens))
        if end > self.position:
            fresh = numbers(self.tokens[:end], self.position)
            for layer, leaf in enumerate(self.cache):
                leaf.update_and_fetch(fresh + layer, -fresh - layer)
            mx.eval([leaf.state for leaf in self.cache])
            self.position = end

    def keep(self) -> None:
        self.store.commit(self.lease, pack_tokens(self.tokens), self.position, self.capture)

    def capture(self, start: int, end: int) -> Segment:
        cache, buffer = self.cache, self.lease.buffer
        return capture(LAYOUT, cache, start=start, end=end, depth=self.position, buffer=buffer)

    def join_a_batch(self) -> None:
        """Go on with a copy of the cache, as a row of a batch does."""
        copies = [KVCache() for _ in self.cache]
        for leaf, copied in zip(self.cache, copies, strict=True):
            if leaf.keys is not None:
                copied.keys, copied.values = mx.contiguous(leaf.keys + 0), mx.contiguous(leaf.values + 0)
            copied.offset = self.position
        mx.eval([copied.state for copied in copies])
        self.cache = copies
        self.store.give_back(self.lease)

    def check(self) -> None:
        expected = numbers(self.tokens[: self.position], 0)
        for layer, leaf in enumerate(self.cache):
            if self.position:
                assert mx.array_equal(leaf.keys[:, :, : self.position], expected + layer)
                assert mx.array_equal(leaf.values[:, :, : self.position], -expected - layer)

    def end(self) -> None:
        self.keep()
        self.check()
        self.cache = []
        self.store.close(self.lease)


LAYOUT = Layout.of(Model())


def build_store(*, max_bytes: int = 1 << 30, block_tokens: int = 4) -> PrefixStore:
    return PrefixStore(
        Model(),
        LAYOUT,
        fingerprint=b"model",
        block_tokens=block_tokens,
        min_reuse_tokens=1,
        max_bytes=max_bytes,
        slots=2,
        recompute_s=lambda start, end: float(end - start),
        segment_bytes=lambda tokens: tokens * TOKEN_BYTES,
        token_bytes=TOKEN_BYTES,
    )


def said(store: PrefixStore, tokens: list[int]) -> Running:
    """A sequence that computed all of these tokens and ended."""
    sequence = Running(store, tokens)
    sequence.compute(len(tokens))
    sequence.end()
    return sequence


def text(count: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(1, 1000) for _ in range(count)]


def check_books(store: PrefixStore) -> None:
    """What the store says it keeps is what its buffers take."""
    store.index.check_integrity()
    assert store.nbytes == sum(buffer._count_bytes() for buffer in store._buffers if not buffer.is_lent)
    for buffer in store._buffers:
        assert buffer._count_named() == sum(part.end - part.start for part in buffer.parts())


def test_the_next_turn_goes_on_in_the_buffer_of_the_last() -> None:
    store = build_store()
    story = text(4000)
    said(store, story)
    (buffer,) = store._buffers
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    turn = Running(store, [*story, *text(20, seed=1)])
    assert turn.lease.buffer is buffer
    assert turn.position == len(story)
    turn.compute(20)
    turn.cache = []
    del turn.cache
    assert mx.get_peak_memory() - before < 0.05 * buffer.nbytes + 4 * len(story) * HEADS * DIM * LAYERS  # `check`'s own
    turn.cache = []
    store.close(turn.lease)
    assert list(store._buffers) == [buffer]
    check_books(store)


def test_of_two_turns_on_one_leaf_at_once_the_second_copies() -> None:
    store = build_store()
    story = text(3000)
    said(store, story)
    one, other = (Running(store, [*story, *text(30, seed=n)]) for n in (1, 2))
    assert one.lease.buffer is not other.lease.buffer
    for _ in range(3):
        one.compute(10)
        other.compute(10)
    one.end()
    other.end()
    for n in (1, 2):
        again = Running(store, [*story, *text(30, seed=n), 5])
        assert again.position == len(story) + 30
        again.end()
    check_books(store)


def test_a_turn_that_parts_inside_a_lent_leaf_reads_it_and_changes_nothing() -> None:
    store = build_store()
    story = text(3000)
    said(store, story)
    running = Running(store, [*story, *text(40, seed=1)])
    running.compute(10)
    fork = Running(store, [*story[:2501], *text(60, seed=2)])
    assert fork.position == 2501
    running.compute(20)
    fork.compute(60)
    running.check()
    fork.end()
    running.end()
    assert Running(store, [*story, 0]).position == len(story)
    assert store.peek("", pack_tokens([*story[:2501], *text(60, seed=2), 0])) == 2561
    check_books(store)


def test_one_that_parts_near_the_end_of_a_leaf_at_rest_takes_the_buffer_and_sets_the_rest_aside() -> None:
    """As every turn of a model whose template leaves earlier reasoning out."""
    store = build_store()
    story = text(3000)
    said(store, story)
    (buffer,) = store._buffers
    fork = Running(store, [*story[:2901], *text(60, seed=2)])
    assert fork.lease.buffer is buffer
    fork.compute(60)
    fork.end()
    again = Running(store, [*story, 7])
    assert again.position == len(story)
    again.end()
    check_books(store)


def test_what_a_lent_buffer_names_can_be_exported_while_it_is_written_to() -> None:
    store = build_store()
    story = text(3000)
    running = Running(store, [*story, *text(500, seed=1)])
    running.compute(len(story))
    running.keep()
    (node,) = store.index.nodes()
    segment = node.payload
    assert segment is not None
    info = FileInfo(key=node.key, parent=b"", seed=b"", start=0, tokens=node.tokens, is_checkpoint=True)
    pieces = Export(segment, info).pieces()
    content = next(pieces)
    running.compute(100)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    content += b"".join(piece for piece in pieces)
    assert mx.get_peak_memory() <= before, "the host copies; the device makes nothing"
    running.compute(400)
    running.end()
    expected = numbers(story, 0)
    layers = [(side * (expected + layer)) for layer in range(LAYERS) for side in (1, -1)]
    assert content == b"".join(bytes(memoryview(mx.contiguous(part))) for part in layers)  # type: ignore[arg-type]


def test_a_fork_keeps_its_copy_of_the_head_until_memory_is_wanted() -> None:
    store = build_store()
    head = text(2000)
    for n in (1, 2):
        said(store, [*head, *text(600, seed=n)])
    hot = store.nbytes
    assert store.index.nbytes < 0.7 * hot
    store.shrink(store.index.nbytes)
    assert store.nbytes == store.index.nbytes
    for n in (1, 2):
        assert Running(store, [*head, *text(600, seed=n), 0]).position == 2600


def test_what_was_packed_is_there_once_after_it_was_restored() -> None:
    store = build_store()
    story = text(2000)
    said(store, story[:700])
    said(store, story[:1400])
    said(store, story)
    for each in store._buffers:
        each.pack()
    del each
    assert all(buffer.arrays == 1 for buffer in store._buffers)
    Running(store, [*story, 1]).end()
    assert len(store._buffers) == 1
    assert store.index.nbytes <= store.nbytes <= 1.3 * store.index.nbytes
    check_books(store)


def test_short_sequences_at_rest_take_one_array() -> None:
    store = build_store()
    for n in range(20):
        said(store, text(30, seed=n))
    assert store.arrays == 20
    assert store.nbytes == 20 * 30 * TOKEN_BYTES


def test_what_a_full_cache_counts_anew_does_not_grow_with_the_square_of_what_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = 0
    count = Buffer.overhead_bytes.fget
    assert count is not None

    def counting(buffer: Buffer) -> int:
        nonlocal counted
        counted += 1
        return int(count(buffer))

    store = build_store(max_bytes=200 * 30 * TOKEN_BYTES)
    for n in range(200):
        said(store, text(30, seed=n))
    monkeypatch.setattr(Buffer, "overhead_bytes", property(counting))
    said(store, text(30, seed=200))
    assert len(store._buffers) > 190
    assert counted < 30 * 200


def test_arrays_are_bounded_as_bytes_are() -> None:
    store = build_store()
    store.max_arrays = 20
    for n in range(60):
        said(store, text(30, seed=n))
        assert store.arrays <= 20
    assert store.peek("", pack_tokens([*text(30, seed=59), 1])) == 30
    check_books(store)


def test_what_is_larger_than_the_budget_is_kept_in_part_and_said(caplog: pytest.LogCaptureFixture) -> None:
    store = build_store(max_bytes=402 * TOKEN_BYTES)
    story = text(1000)
    for _ in range(3):
        caplog.clear()
        with caplog.at_level("WARNING"):
            said(store, story)
        assert store.peek("", pack_tokens([*story, 1])) == 400
        assert "kept 400 of 1000 tokens: the budget is" in caplog.text
        assert store.kept_note in caplog.text
    assert store.unkept_tokens >= 1800
    store.shrink(0)
    said(store, text(100, seed=1))
    assert store.kept_note == "", "the latest conversation was kept"
    check_books(store)


def test_a_row_of_a_batch_is_kept_in_part_too() -> None:
    store = build_store(max_bytes=402 * TOKEN_BYTES)
    running = Running(store, text(1000))
    running.compute(1000)
    running.join_a_batch()
    running.end()
    assert store.peek("", pack_tokens([*text(1000), 1])) == 400
    check_books(store)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_bytes", [1 << 30, 400 * TOKEN_BYTES])
def test_whatever_happens_what_is_restored_is_what_was_computed(seed: int, max_bytes: int) -> None:
    dice = random.Random(seed)
    store = build_store(max_bytes=max_bytes)
    running: list[Running] = []
    stories = [text(dice.randrange(5, 120), seed=n) for n in range(3)]
    for _ in range(250):
        what = dice.random()
        if what < 0.25 and len(running) < 4:
            story = dice.choice(stories)
            begun = [*story[: dice.randrange(len(story) + 1)], *text(dice.randrange(1, 60), seed=dice.randrange(8))]
            running.append(Running(store, begun))
            if dice.random() < 0.3:
                stories.append(begun)
        elif not running:
            continue
        elif what < 0.6:
            dice.choice(running).compute(dice.randrange(1, 40))
        elif what < 0.75:
            dice.choice(running).keep()
        elif what < 0.8:
            dice.choice(running).join_a_batch()
        elif what < 0.85:
            store.shrink(dice.randrange(store.nbytes + 1), weight=dice.choice([0.5, 1.0]))
        elif what < 0.9:
            dropped = running.pop(dice.randrange(len(running)))
            dropped.cache = []
            store.close(dropped.lease)
        else:
            running.pop(dice.randrange(len(running))).end()
        for sequence in running:
            sequence.check()
        check_books(store)
        assert store.nbytes <= max_bytes or any(node.pins for node in store.index.nodes())
    while running:
        running.pop().end()
    check_books(store)
    assert store.nbytes <= max_bytes


# --- with a model -------------------------------------------------------------------------------------------------


PRESETS = ("full", "gemma3", "hybrid")


def conversation(*words: str) -> list[Message]:
    return [HEAD, *(message("user" if n % 2 == 0 else "assistant", word) for n, word in enumerate(words))]


def cold(folder: Path, item: GenerateRequest) -> list[int]:
    driver = Driver(folder)
    driver.run(item)
    return driver.tokens[item.id]


@pytest.mark.parametrize("preset", some(PRESETS, "full"))
def test_turns_on_one_leaf_at_once_say_what_each_would_alone(preset: str, random_checkpoint: CheckpointMaker) -> None:
    """Two choices of one request, and a third turn that goes on otherwise, begun while the first is under way."""
    folder = random_checkpoint(preset)
    driver = Driver(folder)
    driver.run(request("first", conversation("one")))
    asked = request("x", conversation("one", "two", "three"))
    driver.submit(replace(asked, id="a"), replace(asked, id="b"))
    driver.step_until(lambda: len(driver.tokens["a"]) > 3)
    (other,) = driver.run(request("c", conversation("one", "else")))
    assert other.usage.cached_tokens > 0.9 * other.usage.input_tokens
    expected = cold(folder, asked)
    assert driver.tokens["a"] == driver.tokens["b"] == expected
    assert driver.tokens["c"] == cold(folder, request("c", conversation("one", "else")))


@pytest.mark.parametrize("preset", some(PRESETS, "full"))
@pytest.mark.parametrize("when", ["prefill", "decode"])
def test_a_cancelled_turn_gives_the_buffer_back_with_what_it_computed(
    preset: str, when: str, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    driver = Driver(folder, prefill_step_tokens=64)
    driver.run(request("first", conversation("one")))
    longer = conversation("one", "two", standard_library_text(1500))
    driver.submit(request("a", longer, max_tokens=500))
    enough = {"prefill": lambda: len(driver.events["a"]) > 3, "decode": lambda: len(driver.tokens["a"]) > 5}
    driver.step_until(enough[when])
    driver.engine.cancel("a")
    driver.check()
    assert not any(buffer.is_lent for buffer in driver.engine.store._buffers)
    (again,) = driver.run(request("b", longer))
    assert again.usage.cached_tokens > (0.5 if when == "prefill" else 0.95) * again.usage.input_tokens
    assert driver.tokens["b"] == cold(folder, request("c", longer))


@pytest.mark.parametrize("preset", some(("full", "hybrid"), "hybrid"))
def test_what_is_written_while_it_is_lent_comes_back_whole(
    preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    kept: dict[str, Any] = {"state_dir": tmp_path, "ssd_cache_bytes": 1 << 30}
    driver = Driver(folder, **kept)
    driver.submit(request("a", conversation("one"), max_tokens=200))
    driver.step_until(lambda: driver.engine.store.index.stored_bytes > 0)
    assert driver.engine.has_work()
    driver.step_until(lambda: not driver.engine.has_work())
    driver.engine.unload()
    after = Driver(folder, **kept)
    answer, same = after.run(request("b", conversation("one", "two", "three"))) + after.run(
        request("d", conversation("one"), max_tokens=200)
    )
    assert answer.usage.restored_tokens > 0.8 * answer.usage.input_tokens
    assert after.tokens["b"] == cold(folder, request("c", conversation("one", "two", "three")))
    assert after.tokens["d"] == driver.tokens["a"]
    assert same.usage.cached_tokens > 0.95 * same.usage.input_tokens
    after.engine.unload()


def test_what_goes_to_disk_does_not_depend_on_room_in_memory(
    tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint("full")
    settings: dict[str, Any] = {"state_dir": tmp_path, "ssd_cache_bytes": 1 << 30, "cache_bytes": 300 * 256}
    driver = Driver(folder, **settings)
    (first,) = driver.run(request("a", conversation("one")))
    assert driver.engine.store.nbytes <= 300 * 256
    (note,) = driver.engine.stats().notes
    computed = first.usage.input_tokens + first.usage.output_tokens
    assert re.match(f"kept 300 of ({computed - 1}|{computed}) tokens: the budget is .* the rest goes to the disk", note)
    driver.engine.store.flush(10)
    assert driver.engine.store.nbytes <= 300 * 256
    (again,) = driver.run(request("b", conversation("one")))
    assert again.usage.restored_tokens > 0.9 * (again.usage.input_tokens - 300)
    assert again.usage.cached_tokens > 0.9 * again.usage.input_tokens
    assert driver.tokens["b"] == driver.tokens["a"]
    driver.engine.unload()


@pytest.mark.parametrize("preset", ["full", "llama"])
def test_no_graph_grows_with_a_batch(preset: str, random_checkpoint: CheckpointMaker) -> None:
    driver = Driver(random_checkpoint(preset), options={"drafting": "off"})
    driver.submit(*(request(key, [message("user", key)], max_tokens=300) for key in ("a", "b")))
    driver.step_until(lambda: len(driver.tokens["a"]) > 250 and len(driver.tokens["b"]) > 250)
    (group,) = driver.engine._decoder._groups
    held = [array for leaf in leaves(group._cache) for array in vars(leaf).values() if isinstance(array, mx.array)]
    dot = io.StringIO()
    mx.export_to_dot(dot, *held)
    assert dot.getvalue().count("->") < 700
    driver.engine.cancel("a")
    driver.engine.cancel("b")


def test_a_long_row_stays_alone_and_keeps_its_buffer(random_checkpoint: CheckpointMaker) -> None:
    driver = Driver(random_checkpoint("full"), options={"drafting": "off"})
    driver.engine._decoder._long_bytes = 500 * 256
    driver.submit(request("long", conversation("one"), max_tokens=300))
    driver.step_until(lambda: len(driver.tokens["long"]) > 2)
    driver.submit(request("short", [message("user", "quick")], max_tokens=20))
    driver.step_until(lambda: len(driver.tokens["short"]) > 2)
    assert driver.engine.stats().metrics["decode_groups"] == 2
    assert sum(buffer.is_lent for buffer in driver.engine.store._buffers) == 2
    driver.step_until(lambda: not driver.engine.has_work())
    assert assemble(driver.events["short"]).usage.output_tokens == 20


def test_buffers_are_the_leaves_of_the_running_cache(random_checkpoint: CheckpointMaker) -> None:
    """What makes writing in place possible: nothing but the cache holds an array."""
    driver = Driver(random_checkpoint("gemma3"))
    driver.submit(request("a", conversation("one"), max_tokens=30))
    driver.step_until(lambda: len(driver.tokens["a"]) > 3)
    (lent,) = (buffer for buffer in driver.engine.store._buffers if buffer.is_lent)
    running = leaves(driver.engine._decoder._groups[0]._cache)
    assert isinstance(lent, Buffer)
    assert [leaf for leaf in running if type(leaf) is KVCache] == lent.leaves
    driver.engine.cancel("a")
