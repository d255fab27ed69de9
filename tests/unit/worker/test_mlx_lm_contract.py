"""What the engine relies on in mlx-lm beyond its documented interface. When one of these fails, mlx-lm has changed."""

from __future__ import annotations

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import ArraysCache, BatchKVCache, CacheList, ChunkedKVCache, KVCache, RotatingKVCache
from mlx_lm.utils import load_model

from shared.messages import Message
from shared.request import GenerateRequest
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from worker.engines.mlx.kv.cache import Layout


def fill(cache: KVCache | RotatingKVCache | ChunkedKVCache, *lengths: int) -> None:
    """Feed runs of tokens; token n has keys n and values -n."""
    for length in lengths:
        start = cache.offset
        keys = mx.broadcast_to(mx.arange(start, start + length)[None, None, :, None], (1, 2, length, 3)).astype(
            mx.float32
        )
        cache.update_and_fetch(keys, -keys)


def numbers(array: mx.array) -> list[int]:
    return [int(value) for value in array[0, 0, :, 0].tolist()]  # type: ignore[arg-type, union-attr]


def test_version_is_the_one_the_engine_was_written_for() -> None:
    assert mlx_lm.__version__.split(".")[:2] == ["0", "32"]


def test_kv_cache_keeps_tokens_in_order_with_room_behind() -> None:
    cache = KVCache()
    fill(cache, 5, 1, 300)
    assert numbers(cache.keys)[: cache.offset] == list(range(306))
    assert cache.keys.shape[2] % cache.step == 0 or cache.keys.shape[2] >= cache.offset


def test_writing_to_a_kv_cache_leaves_earlier_views_alone() -> None:
    cache = KVCache()
    fill(cache, 5)
    seen = cache.keys[..., :5, :]
    cache.trim(2)
    fill(cache, 2)
    cache.keys[..., 0:1, :] = mx.full((1, 2, 1, 3), 99.0)
    assert numbers(seen) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "lengths", [(3,), (8,), (20,), (3, 1, 1), (3, *[1] * 4), (3, *[1] * 30), (20, 1, 1), (20, 5, 1)]
)
def test_rotating_cache_wraps_at_its_index(lengths: tuple[int, ...]) -> None:
    """`_idx` is where the oldest token stands once the ring is full, else the end."""
    cache = RotatingKVCache(max_size=8)
    fill(cache, *lengths)
    held = numbers(cache.keys)
    end = cache.offset
    ordered = held[: cache._idx] if cache._idx in (len(held), end) else held[cache._idx :] + held[: cache._idx]
    assert ordered == list(range(end - len(ordered), end))
    assert len(ordered) >= min(8, end)


@pytest.mark.parametrize("lengths", [(3,), (8,), (20,), (3, 1, 1), (20, 5, 1), (300, 7)])
def test_chunked_cache_holds_the_tokens_since_its_start_in_order(lengths: tuple[int, ...]) -> None:
    cache = ChunkedKVCache(chunk_size=8)
    for length in lengths:
        cache.maybe_trim_front()  # as the model does before each pass
        fill(cache, length)
    held = cache.offset - cache.start_position
    assert numbers(cache.keys)[:held] == list(range(cache.start_position, cache.offset))
    assert held >= min(8, cache.offset)


def test_batch_cache_holds_rows_right_justified_behind_their_padding() -> None:
    short, long = KVCache(), KVCache()
    fill(short, 3)
    fill(long, 7)
    batch = BatchKVCache.merge([short, long])
    assert batch.left_padding.tolist() == [4, 0]
    assert batch._idx == 7
    assert [int(v) for v in batch.keys[0, 0, 4:7, 0].tolist()] == [0, 1, 2]  # type: ignore[arg-type, union-attr]


def test_every_cache_the_engine_batches_has_the_operations_it_uses() -> None:
    for cls in (KVCache, RotatingKVCache, ArraysCache, CacheList):
        assert callable(cls.merge)
    for cls in (
        type(KVCache.merge([KVCache()])),
        type(RotatingKVCache.merge([RotatingKVCache(4)])),
        ArraysCache,
        CacheList,
    ):
        assert callable(cls.extend)
        assert callable(cls.filter)
        assert callable(cls.extract)


@pytest.mark.parametrize(
    ("preset", "kinds"),
    [
        ("full", {"tokens"}),
        ("window", {"window"}),
        ("gemma3", {"window", "tokens"}),
        ("hybrid", {"state", "tokens"}),
        ("mamba2", {"state"}),
        ("falcon-h1", {"state", "tokens"}),
        ("vision", {"window", "tokens"}),
    ],
)
def test_layers_are_of_the_kind_they_look_like(
    preset: str, kinds: set[str], random_checkpoint: CheckpointMaker
) -> None:
    layout = Layout.of(load_model(random_checkpoint(preset))[0])
    assert set(layout.kinds) == kinds
    assert layout.can_batch


@pytest.mark.parametrize("preset", ["full", "window", "qwen3-next"])
def test_engine_says_what_mlx_lms_own_generator_says(preset: str, random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint(preset)
    driver = Driver(folder)
    system: Message = message("system", standard_library_text(1500))
    requests: list[GenerateRequest] = [
        request(str(i), [system, message("user", f"question {i} " * (1 + 9 * i))], max_tokens=12) for i in range(4)
    ]
    driver.run(*requests)
    generator = BatchGenerator(load_model(folder)[0])
    uids = generator.insert([driver.engine.prepare(item).payload[0].tokens for item in requests], max_tokens=[12] * 4)
    said: dict[int, list[int]] = {uid: [] for uid in uids}
    while responses := generator.next_generated():
        for response in responses:
            said[response.uid].append(response.token)
    assert [driver.tokens[item.id] for item in requests] == [said[uid] for uid in uids]
