"""Which models see, and where the tokens of images stand. What needs mlx-vlm itself is in `test_mlx_towers`."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from shared.errors import UnsupportedContentError
from tests.support.images import image_part, shows
from tests.support.mlx_engine import Driver, request
from tests.support.models import CheckpointMaker
from worker.engines.mlx.eyes.base import Seen, joined
from worker.engines.mlx.eyes.families import FAMILIES, sections_of
from worker.engines.mlx.eyes.finding import Sight, find_sight
from worker.engines.mlx.eyes.places import DeepLayer, Pass, PlacedRope, Places, axes_of, moved_behind, positions
from worker.prompt import Prompt
from worker.prompt.image_files import Image
from worker.prompt.image_pieces import ImageSpan, Patch, find_spans


def sight(model_type: str, *, is_there: bool = False) -> Sight:
    config = {"model_type": model_type, "vision_config": {"hidden_size": 8}}
    return find_sight(None, Path("/nowhere"), config, nullcontext, is_there=lambda name: is_there)


def test_a_model_of_text_has_no_reason_to_give() -> None:
    assert find_sight(None, Path("/nowhere"), {"model_type": "llama"}, nullcontext) == Sight()


def test_without_the_extra_the_reason_is_the_line_that_installs_it() -> None:
    reason = sight("qwen2_5_vl").reason
    assert reason.startswith("mlx-vlm, which reads this model's images, is not installed; install it: ")
    assert "vision" in reason.partition("mlx-gateway[")[2]


def test_a_family_that_was_not_tried_is_refused_by_name() -> None:
    reason = sight("deepseek_vl_v2", is_there=True).reason
    assert reason == f"images of deepseek_vl_v2 are not read here; those of {', '.join(sorted(FAMILIES))} are"


def test_the_client_is_told_why_in_the_words_on_which_images_are_stripped(
    random_checkpoint: CheckpointMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.engines.mlx.model.models.find_sight", lambda *given: Sight(reason="it sleeps"))
    driver = Driver(random_checkpoint("full"))
    with pytest.raises(UnsupportedContentError) as refused:
        driver.engine.prepare(request("a", [shows(image_part(1), "What is ", "?")]))
    assert refused.value.message == "Could not process image: it sleeps"


# --- where tokens stand --------------------------------------------------------------------------------------


def prompt(*parts: int | tuple[int, int]) -> Prompt:
    """Of so many words, or of an image of so many rows and columns, one part behind the other."""
    spans, images, at = [], {}, 0
    for index, part in enumerate(parts):
        count = part if isinstance(part, int) else part[0] * part[1]
        if not isinstance(part, int):
            digest = bytes([index])
            spans.append(ImageSpan(start=at, end=at + count, digest=digest))
            images[digest] = Image(digest=digest, text="", tokens=count, data="", grid=part)
        at += count
    return Prompt(tokens=[0] * at, boundaries=(), in_reasoning=False, spans=tuple(spans), images=images)


def test_an_image_stands_in_a_plane_and_what_follows_behind_its_larger_side() -> None:
    found = positions(prompt(2, (2, 3), 2), 0, 10)
    assert found is not None
    assert found.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert moved_behind(prompt(2, (2, 3), 2), 10) == -3


def test_a_part_stands_where_it_stands_in_the_whole() -> None:
    asked = prompt(3, (2, 3), 1, (3, 2), (1, 4), 5)
    whole = positions(asked, 0, 25)
    assert whole is not None
    for start, end in itertools.combinations(range(26), 2):
        part = positions(asked, start, end)
        if part is None:
            part = np.tile(np.arange(start, end) + moved_behind(asked, start), (3, 1))
        assert part.tolist() == whole[:, start:end].tolist(), (start, end)


def test_the_frequencies_are_divided_in_blocks_or_in_turns() -> None:
    assert axes_of("blocks", [2, 3, 3]).tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert axes_of("turns", [4, 2, 2]).tolist() == [0, 1, 2, 0, 1, 2, 0, 0]


@pytest.mark.parametrize("told", [Pass(moved=-3), Pass(placed=mx.array([[7, 8]] * 3, mx.int32))])
def test_a_text_is_turned_as_mlx_turns_it_where_it_stands(told: Pass) -> None:
    rope, places = nn.RoPE(16, traditional=False, base=10000.0), Places()
    placed = PlacedRope(rope, places, axes_of("blocks", [2, 3, 3]))
    x = mx.random.normal((1, 2, 2, 24))
    assert mx.allclose(placed(x, offset=7), rope(x, offset=7))
    with places.of(told):
        assert mx.allclose(placed(x, offset=10), rope(x, offset=7), atol=1e-5)
    assert mx.allclose(placed(x, offset=7), rope(x, offset=7))


def test_rows_of_a_batch_are_moved_each_by_its_own() -> None:
    rope, places = nn.RoPE(16, traditional=False, base=10000.0), Places()
    placed = PlacedRope(rope, places, axes_of("blocks", [2, 3, 3]))
    x = mx.random.normal((2, 2, 1, 16))
    with places.of(Pass(moved=mx.array([-3, 0]))):
        turned = placed(x, offset=mx.array([10, 4]))
    for row, offset in enumerate((7, 4)):
        assert mx.allclose(turned[row], rope(x[row : row + 1], offset=offset)[0], atol=1e-5)


def test_what_an_image_has_for_a_layer_is_added_behind_that_layer() -> None:
    places = Places()
    first, second, third = (DeepLayer(nn.Identity(), places, index) for index in range(3))
    x, deep = mx.ones((1, 2, 4)), [mx.full((1, 2, 4), 2.0), mx.full((1, 2, 4), 3.0)]
    with places.of(Pass(deep=deep)):
        assert [int(layer(x).max().item()) for layer in (first, second, third)] == [3, 4, 1]
    assert mx.array_equal(first(x), x)


def test_pieces_without_anything_for_deeper_layers_add_nothing_there() -> None:
    seen = joined([Seen(mx.ones((1, 4))), Seen(mx.ones((2, 4)), [mx.full((2, 4), 5.0)])])
    assert seen.rows.shape == (3, 4)
    assert [rows[:, 0].tolist() for rows in seen.deep] == [[0.0, 5.0, 5.0]]


def test_the_sections_are_found_wherever_a_config_has_them() -> None:
    assert sections_of({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}) == [2, 3, 3]
    assert sections_of({"text_config": {"rope_parameters": {"mrope_section": [4, 2, 2]}}}) == [4, 2, 2]
    assert sections_of({"text_config": {}}) == ()


def test_an_image_may_have_other_tokens_between_its_own() -> None:
    images = [Image(digest=b"a", text="", tokens=4, data=""), Image(digest=b"b", text="", tokens=1, data="")]
    spans = find_spans([1, 9, 9, 2, 9, 9, 3, 9, 3], images, Patch(text="[IMG]", token=9))
    assert [(span.start, span.end) for span in spans] == [(1, 6), (7, 8)]
