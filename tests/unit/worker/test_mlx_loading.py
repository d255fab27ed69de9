"""Loading uses the device in turns, piece by piece: others of the host get on, and never at the same moment."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from shared.config import Settings
from shared.registry import ModelSpec
from tests.models.random_checkpoint import standard_library_text
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from worker.device.neighbours import Neighbours
from worker.device.sharing import Holding
from worker.device.turns import Turns
from worker.engines.mlx.engine import MlxEngine
from worker.engines.mlx.model.weights import layer_of, pieces, spans_by_layer


class Watched:
    """Notes of every evaluation whether this process had the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns: Turns | None = None
        self.inside: list[bool] = []
        evaluate = mx.eval

        def noted(*arrays: Any) -> None:
            self.inside.append(self.turns is not None and self.turns._has_room)
            evaluate(*arrays)

        monkeypatch.setattr(mx, "eval", noted)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@contextmanager
def visitor(folder: Path) -> Iterator[Callable[[], None]]:
    """A neighbour that wants the device once for each call: it would wait for ever where the device is held."""
    turns = Turns(folder / "device", lambda: None)

    def visit(_done: float = 0.0) -> None:
        turns.take()
        turns.offer(is_idle=True)

    yield visit
    turns.close()


@pytest.mark.parametrize("preset", ["full", "hybrid", "qwen3-next"])
def test_a_model_is_loaded_in_turns_at_the_device_and_in_pieces(
    preset: str, tmp_path: Path, random_checkpoint: CheckpointMaker, watched: Watched
) -> None:
    folder = random_checkpoint(preset)
    spec = ModelSpec(id="m", source=str(folder), options={"draft_model": str(random_checkpoint("full"))})
    engine = MlxEngine(spec, Settings(state_dir=tmp_path, ssd_cache_bytes=-1))
    watched.turns = engine.open_turns()
    assert watched.turns is not None
    done: list[float] = []

    with visitor(tmp_path) as visit:

        def report(part: float) -> None:
            done.append(part)
            visit()

        engine.load(report)
        visit()
    assert len(watched.inside) > 20
    assert all(watched.inside)
    assert len(done) > 10
    assert done == sorted(done)
    assert done[-1] == 1.0
    engine.unload()
    watched.turns.close()


def test_what_is_left_to_write_at_the_end_is_copied_in_turns_and_the_disk_is_waited_for_outside_them(
    tmp_path: Path, random_checkpoint: CheckpointMaker, watched: Watched
) -> None:
    driver = Driver(random_checkpoint("full"), state_dir=tmp_path, ssd_cache_bytes=1 << 30)
    engine = driver.engine
    watched.turns = engine.open_turns()
    disk = engine.store._disk
    assert watched.turns is not None
    assert disk is not None
    disk._paused_until_s = math.inf  # so that something is left
    driver.run(request("a", [message("user", standard_library_text(3000))]))
    assert not engine.needs_turn()
    disk._paused_until_s = 0.0
    assert engine.needs_turn()
    watched.inside.clear()
    writes = engine.store._writes
    assert writes is not None
    wait, waited = writes.wait, []

    with visitor(tmp_path) as visit:

        def noted(timeout_s: float) -> None:
            visit()
            waited.append(timeout_s)
            wait(timeout_s)

        writes.wait = noted  # type: ignore[method-assign]
        engine.unload()
    assert waited
    assert all(watched.inside)
    assert list(tmp_path.glob("cache/*/*.safetensors"))
    watched.turns.close()


def test_an_idle_engine_needs_no_turn_once_everything_is_written(
    tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    driver = Driver(random_checkpoint("full"), state_dir=tmp_path, ssd_cache_bytes=1 << 30)
    driver.run(request("a", [message("user", standard_library_text(2000))]))
    driver.engine.store.flush(30)
    driver.engine.idle()
    assert not driver.engine.needs_turn()
    driver.engine.unload()


def test_an_idle_engine_takes_a_turn_to_give_memory_up(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    gc.collect()
    others_bytes = mx.get_active_memory()  # of tests before this one
    driver = Driver(random_checkpoint("full"), state_dir=tmp_path, memory_bytes=others_bytes + (64 << 20))
    driver.run(request("a", [message("user", standard_library_text(4000))]))
    driver.engine.idle()
    kept = driver.engine.store.nbytes
    assert kept > 0
    assert not driver.engine.needs_turn()
    newcomer = Neighbours(tmp_path / "device")
    newcomer.publish(
        Holding(base_bytes=others_bytes + (64 << 20))
    )  # more than there is: what is given up is not enough
    driver.engine._room._neighbours._looked_s = -math.inf  # type: ignore[union-attr]
    assert driver.engine.needs_turn()
    driver.engine.idle()
    assert driver.engine.store.nbytes == 0
    assert not driver.engine.needs_turn()
    newcomer.close()
    driver.engine.unload()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.experts.17.w1.weight", "3"),
        ("language_model.model.layers.12.self_attn.q_proj.scales", "12"),
        ("transformer.h.0.attn.bias", "0"),
        ("3.weight", "3"),
        ("model.embed_tokens.weight", ""),
        ("lm_head.weight", ""),
        ("model.norm2.weight", ""),
    ],
)
def test_a_tensors_layer_is_the_first_number_in_its_name(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_the_spans_of_all_layers_cover_the_data_of_a_models_files(random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint("full")
    spans = sorted(span for layer in spans_by_layer(folder).values() for span in layer)
    by_file = {path: [span for span in spans if span[0] == path] for path in folder.glob("model*.safetensors")}
    for path, found in by_file.items():
        assert found[-1][2] == path.stat().st_size
        assert all(first[2] == second[1] for first, second in pairwise(found))
    assert {"0", "1"} <= spans_by_layer(folder).keys()


def test_pieces_are_in_order_and_none_is_empty() -> None:
    arrays = [mx.zeros((size,), mx.uint8) for size in (1, 5, 2, 2, 9)]
    assert [[array.nbytes for array in piece] for piece in pieces(arrays, 5)] == [[1, 5], [2, 2, 9]]
    assert list(pieces([], 5)) == []
