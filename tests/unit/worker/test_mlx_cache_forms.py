"""A file whose arrays are not those that the model keeps is refused by what its header says, whatever its layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache
from mlx_lm.utils import load_model

from tests.models.architectures import build_architecture
from tests.support.forging import of_zeros
from worker.cache_files.file_format import DamagedFileError, FileInfo, Shape
from worker.engines.mlx.kv.cache import Layout, capture
from worker.engines.mlx.kv.classes import class_of, leaves
from worker.engines.mlx.kv.forms import CacheForm
from worker.engines.mlx.kv.segment_file import Export, can_store
from worker.engines.mlx.memory.plan import probed
from worker.prefix_cache.tokens import pack_tokens

DEPTH = 150  # more than a window
START = 20
# What the layers of each keep: all tokens; a window and all; a chunk and all; latent and nothing beside it; states.
FAMILIES = ("llama", "gpt_oss", "llama4", "deepseek_v32", "qwen3_next", "lfm2", "falcon_h1", "pinned")


class Pinned:
    """A model whose second layer keeps its first tokens and the last ones, which none of mlx-lm's has by default."""

    def make_cache(self) -> list[Any]:
        return [CacheList(KVCache(), RotatingKVCache(64, keep=4))]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> None:
        for leaf in leaves(cache):
            leaf.update_and_fetch(*(mx.ones((1, 2, tokens.shape[1], 32)) for _ in range(2)))


@dataclass(frozen=True)
class Family:
    form: CacheForm
    shapes: dict[str, Shape]  # of honest files: in full, at 8 bits, and of one that nothing can be resumed from


def build(architecture: str, folder: Path) -> Any:
    return Pinned() if architecture == "pinned" else load_model(build_architecture(architecture, folder))[0]


def family(architecture: str, folder: Path) -> Family:
    model = build(architecture, folder)
    layout = Layout.of(model)
    cache = model.make_cache() if hasattr(model, "make_cache") else [KVCache() for _ in model.layers]
    for count in (DEPTH - 1, 1):
        model(mx.ones((1, count), mx.int32), cache=cache)
    segment = capture(layout, cache, start=START, end=DEPTH, depth=DEPTH, buffer=None)
    thin = segment.thin() if layout.has_state else segment
    shapes = {
        "full": Export(segment, described(is_checkpoint=segment.is_checkpoint)).shape,
        "packed": Export(segment, described(is_checkpoint=segment.is_checkpoint), is_packed=True).shape,
        "thin": Export(thin, described(is_checkpoint=thin.is_checkpoint)).shape,
    }
    return Family(CacheForm.of(layout, probed(model)), shapes)


def described(*, is_checkpoint: bool) -> FileInfo:
    tokens = pack_tokens(range(DEPTH - START))
    return FileInfo(key=b"k", parent=b"p", seed=b"s", start=START, tokens=tokens, is_checkpoint=is_checkpoint)


@pytest.fixture(scope="module", params=FAMILIES)
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family(request.param, tmp_path_factory.mktemp(request.param))


def is_refused(known: Family, shape: Shape) -> bool:
    try:
        known.form.check(shape)
    except DamagedFileError:
        return True
    return False


def test_honest_files_are_taken(known: Family) -> None:
    for shape in known.shapes.values():
        known.form.check(shape)


def lies(shape: Shape) -> Iterator[tuple[str, Shape]]:
    """Each array in turn of another type, of one more along each axis, missing, and under other names; and more."""
    for name, (dtype, axes, nbytes) in shape.tensors.items():
        others = {
            "in another type": of_zeros("F16" if dtype != "F16" else "U8", axes),
            "in numbers that are none": ("F99", axes, nbytes),
            "with an axis more": of_zeros(dtype, (1, *axes)),
            "with an axis less": of_zeros(dtype, axes[1:]),
            "of too few bytes": (dtype, axes, nbytes - 1),
        }
        for axis, size in enumerate(axes):
            others[f"longer along {axis}"] = of_zeros(dtype, (*axes[:axis], size + 1, *axes[axis + 1 :]))
        for what, other in others.items():
            yield f"{name} {what}", with_tensors(shape, {**shape.tensors, name: other})
        rest = {other: entry for other, entry in shape.tensors.items() if other != name}
        yield f"{name} missing", with_tensors(shape, rest)
        index, _, path = name.partition(".")
        for stranger in (f"{int(index) + 50}.{path}", f"-1.{path}", f"x.{path}", f"{index}.more", path):
            yield f"{name} and {stranger}", with_tensors(shape, {**shape.tensors, stranger: shape.tensors[name]})


def with_tensors(shape: Shape, tensors: Any) -> Shape:
    return replace(shape, tensors=tensors)


def without_layers(shape: Shape) -> Iterator[tuple[str, Shape]]:
    for index in sorted({name.partition(".")[0] for name in shape.tensors}):
        rest = {name: entry for name, entry in shape.tensors.items() if name.partition(".")[0] != index}
        states = {name: state for name, state in json.loads(shape.states).items() if name != index}
        yield f"without layer {index}", replace(shape, tensors=rest, states=json.dumps(states))


def test_each_lie_about_an_array_or_a_layer_is_refused(known: Family) -> None:
    count = 0
    for kind in ("full", "packed"):
        shape = known.shapes[kind]
        for what, lie in (*lies(shape), *without_layers(shape)):
            count += 1
            assert is_refused(known, lie), f"{kind}: {what}"
    assert count > 20


def test_arrays_of_all_layers_that_agree_with_each_other_and_not_with_the_model_are_refused(known: Family) -> None:
    shape = known.shapes["full"]
    for axis in (1, 2, -1):
        longer = {}
        for name, (dtype, axes, _) in shape.tensors.items():
            size = list(axes)
            size[min(axis, len(axes) - 1)] *= 2
            longer[name] = of_zeros(dtype, tuple(size))
        with pytest.raises(DamagedFileError):
            known.form.check(with_tensors(shape, longer))


def test_a_file_of_more_or_fewer_tokens_than_its_arrays_have_is_refused(known: Family) -> None:
    shape = known.shapes["full"]
    for count in (1, DEPTH - START - 1, DEPTH - START + 1, 10_000):
        with pytest.raises(DamagedFileError):
            known.form.check(replace(shape, info=replace(shape.info, tokens=pack_tokens(range(count)))))


def test_what_is_said_to_be_a_place_to_resume_and_has_no_state_is_refused(known: Family) -> None:
    thin = known.shapes["thin"]
    if not thin.info.is_checkpoint:
        with pytest.raises(DamagedFileError):
            known.form.check(replace(thin, info=replace(thin.info, is_checkpoint=True)))


def strange_states(states: dict[str, Any]) -> Iterator[Any]:
    yield from ([], "no", 7, None, {**states, "77": {"class": "ArraysCache", "scalars": {}}})
    for index, state in states.items():
        others: list[Any] = [[], 7, {}, {"class": "KVCache"}, {**state, "class": "KVCache"}, {**state, "class": 7}]
        others += [{**state, "scalars": scalars} for scalars in ([], 7, {**state["scalars"], "9": 1}, {})]
        for path, value in state["scalars"].items():
            more = [True, "1", 2**70, -1, 1.5, *([0, float(value)] if isinstance(value, int) else [])]
            more += [value + 1] if isinstance(value, int) and path != "5" else []  # 5: any place in the ring could be
            others += [{**state, "scalars": {**state["scalars"], path: other}} for other in more]
        yield from ({**states, index: other} for other in others if other != state)


def test_a_state_that_says_anything_else_of_itself_is_refused(known: Family) -> None:
    for shape in known.shapes.values():
        states = json.loads(shape.states)
        for other in strange_states(states):
            assert is_refused(known, replace(shape, states=json.dumps(other))), f"{other} for {states}"


def test_a_state_where_the_model_keeps_tokens_is_refused(known: Family) -> None:
    shape = known.shapes["full"]
    states = json.loads(shape.states)
    for index, leaf in enumerate(known.form.leaves):
        if leaf.kind != "state":
            lie = {**states, str(index): {"class": "ArraysCache", "scalars": {}}}
            with pytest.raises(DamagedFileError):
                known.form.check(replace(shape, states=json.dumps(lie)))


def test_a_state_in_a_layer_of_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    """Such layers stand in no file of ours."""
    model = build("deepseek_v41", tmp_path)
    layout = Layout.of(model)
    form = CacheForm.of(layout, probed(model))
    index = layout.kinds.index("state")
    states = {str(index): {"class": type(leaves(model.make_cache())[index]).__name__, "scalars": {}}}
    for each in ({}, states):
        with pytest.raises(DamagedFileError):
            form.check(Shape(info=described(is_checkpoint=True), tensors={}, states=json.dumps(each)))


@pytest.mark.parametrize(
    "passes", [[1], [63], [64], [65], [200], [10, 1, 1], [63, 1, 1, 1], [200, 1], [1] * 70, [30, 50]]
)
def test_a_window_with_first_tokens_is_taken_wherever_it_stands(passes: list[int]) -> None:
    model = Pinned()
    layout = Layout.of(model)
    form = CacheForm.of(layout, probed(model))
    cache = model.make_cache()
    for count in passes:
        model(mx.ones((1, count), mx.int32), cache)
    depth = sum(passes)
    segment = capture(layout, cache, start=0, end=depth, depth=depth, buffer=None)
    assert can_store(segment)
    assert [class_of(state).is_stored for state in segment.states if state is not None] == [True]
    info = replace(described(is_checkpoint=True), start=0, tokens=pack_tokens(range(depth)))
    form.check(Export(segment, info).shape)
