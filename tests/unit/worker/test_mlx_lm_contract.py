"""What the engine relies on in mlx-lm beyond its documented interface. When one of these fails, mlx-lm has changed."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
from typing import Any

import mlx.core as mx
import mlx_lm
import mlx_lm.tool_parsers
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
)
from mlx_lm.processors import load_processor
from mlx_lm.tokenizer_utils import SPMStreamingDetokenizer, TokenizerWrapper
from mlx_lm.utils import load_model, load_tokenizer

from shared.messages import Message
from shared.request import GenerateRequest
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from worker.engines.mlx.internals import MLX_LM_INTERNALS, MLX_LM_VERSION
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.classes import CACHE_CLASSES, class_of, leaf_bytes


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


def made(cls: type) -> Any:
    """A leaf of the class that holds 20 tokens or rows of states."""
    if cls is ArraysCache:
        arrays = ArraysCache(2)
        arrays[0], arrays[1] = mx.ones((1, 4)), mx.ones((1, 2, 3))
        return arrays
    if cls in (BatchKVCache, BatchRotatingKVCache):
        single: Any = KVCache() if cls is BatchKVCache else RotatingKVCache(8)
        fill(single, 20)
        return single.merge([single])
    leaf: Any = cls() if cls is KVCache else cls(8)
    fill(leaf, 20)
    return leaf


def test_mlx_lm_is_the_version_whose_internals_were_read() -> None:
    """When this fails mlx-lm is another: `make newest`, read `MLX_LM_INTERNALS` and the code it names, then pin it."""
    assert mlx_lm.__version__.startswith(MLX_LM_VERSION + ".")


def test_mlx_lms_internals_are_those_that_were_read() -> None:
    assert len(MLX_LM_INTERNALS) == len(set(MLX_LM_INTERNALS))
    fields: dict[type, set[str]] = {
        KVCache: {"keys", "values", "offset"},
        RotatingKVCache: {"keys", "values", "offset", "keep", "max_size", "_idx"},
        ChunkedKVCache: {"keys", "values", "offset", "chunk_size", "start_position"},
        ArraysCache: {"cache", "left_padding", "lengths"},
        BatchKVCache: {"keys", "values", "offset", "left_padding", "_idx", "_right_padding"},
        BatchRotatingKVCache: {"keys", "values", "offset", "left_padding", "_idx", "_offset", "max_size", "rotated"},
    }
    assert {cls: set(vars(made(cls))) - {"_lengths"} for cls in fields} == fields
    assert CACHE_CLASSES.keys() == fields.keys()
    signatures: dict[Any, list[str]] = {
        KVCache.update_and_fetch: ["self", "keys", "values"],
        KVCache.trim: ["self", "n"],
        BatchKVCache.extend: ["self", "other"],
        BatchKVCache.filter: ["self", "batch_indices"],
        BatchKVCache.extract: ["self", "idx"],
        load_model: ["model_path", "lazy", "strict", "model_config", "get_model_classes", "trust_remote_code"],
        load_tokenizer: ["model_path", "tokenizer_config_extra", "eos_token_ids"],
        load_processor: ["model", "config"],
        SPMStreamingDetokenizer.__init__: ["self", "tokenizer", "trim_space"],
    }
    assert {call: list(inspect.signature(call).parameters) for call in signatures} == signatures
    wrapper = {"detokenizer", "eos_token_ids", "has_thinking", "think_start", "think_end", "has_tool_calling"}
    wrapper |= {"tool_parser", "response_initial_state", "response_transitions", "structural_markers"}
    assert wrapper <= set(dir(TokenizerWrapper))
    for family in pkgutil.iter_modules(mlx_lm.tool_parsers.__path__):
        module = importlib.import_module(f"mlx_lm.tool_parsers.{family.name}")
        assert {"parse_tool_call", "tool_call_start", "tool_call_end"} <= set(dir(module))


@pytest.mark.parametrize("cls", [cls for cls, known in CACHE_CLASSES.items() if known.is_stored])
def test_a_stored_class_is_all_in_its_state(cls: Any) -> None:
    leaf = made(cls)
    again = cls.from_state(class_of(leaf).copied(leaf).state)
    assert leaf_bytes(again) == leaf_bytes(leaf)
    assert class_of(again).kind == class_of(leaf).kind
    if class_of(leaf).kind != "state":
        ours, theirs = class_of(again).held(again), class_of(leaf).held(leaf)
        assert numbers(ours[0]) == numbers(theirs[0])


@pytest.mark.parametrize("cls", [KVCache, RotatingKVCache, ChunkedKVCache])
def test_what_a_leaf_held_fills_another_that_goes_on_alike(cls: Any) -> None:
    leaf = made(cls)
    keys, values = class_of(leaf).held(leaf)
    held = keys.shape[2]
    other = cls() if cls is KVCache else cls(8)
    class_of(other).fill(other, (mx.contiguous(keys), mx.contiguous(values)), leaf.offset, held)
    for cache in (leaf, other):
        for length in (1, 3, 1):
            fill(cache, length)
    assert numbers(class_of(other).held(other)[0]) == numbers(class_of(leaf).held(leaf)[0])


def edges(arrays: list[mx.array]) -> int:
    """Of the graph that has yet to be computed for these."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    return text.getvalue().count("->")


@pytest.mark.parametrize("cls", CACHE_CLASSES)
def test_no_graph_grows_behind_a_leaf_but_for_its_metadata(cls: Any) -> None:
    """What a model does not read of a batch's offsets nothing evaluates: `metadata` says what must be."""
    leaf = made(cls)
    for _ in range(5 if cls is not ArraysCache else 0):
        one = mx.zeros((1, 2, 1, 3))
        leaf.update_and_fetch(one, one)
        mx.eval(leaf.keys, leaf.values)
    behind = [array for array in vars(leaf).values() if isinstance(array, mx.array)]
    assert edges(behind) == edges(class_of(leaf).metadata(leaf))
    assert (edges(behind) >= 5) == (cls is BatchKVCache)
    mx.eval(class_of(leaf).metadata(leaf))
    assert edges(behind) == 0


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
    prompts = [driver.engine.prepare(item).payload.prompt.tokens for item in requests]
    uids = generator.insert(prompts, max_tokens=[12] * 4)
    said: dict[int, list[int]] = {uid: [] for uid in uids}
    while responses := generator.next_generated():
        for response in responses:
            said[response.uid].append(response.token)
    assert [driver.tokens[item.id] for item in requests] == [said[uid] for uid in uids]
