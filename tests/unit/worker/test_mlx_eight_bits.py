"""What is kept at 8 bits a number: its size, its error, and that nothing that runs is."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from shared.config import load_settings
from shared.errors import ConfigError
from tests.models.random_checkpoint import PRESETS, standard_library_text, write_random_checkpoint
from tests.support.mlx_engine import Driver, message, request
from worker.cache_files.file_format import MappedFile
from worker.engines.mlx.kv.eight_bits import Packed, group_of

HEAD = message("system", standard_library_text(3000))
CONVERSATION = [HEAD, message("user", "one two three")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 64, which mlx takes; those of the other tests are smaller."""
    out = tmp_path_factory.mktemp("heads") / "model"
    return write_random_checkpoint(out, {**PRESETS["full"].config(64), "head_dim": 64})


def start(folder: Path, **settings: object) -> Driver:
    return Driver(folder, **{"cache_bits": 8, **settings})


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_numbers_come_back_within_half_a_step_and_a_rounding(dtype: mx.Dtype) -> None:
    array = mx.random.normal((2, 3, 50, 128), key=mx.random.key(1)).astype(dtype)
    packed = Packed.of(array)
    assert packed is not None
    assert packed.shape == array.shape
    assert packed.nbytes == 2 * 3 * 50 * (128 + 2 * 2 * dtype.size)
    back = packed[1:2, :, 10:20]
    assert (back.shape, back.dtype) == ((1, 3, 10, 128), dtype)
    error = mx.max(mx.abs(back.astype(mx.float32) - array[1:2, :, 10:20].astype(mx.float32))).item()
    assert error < 10 / 255 + 4 * (mx.finfo(dtype).eps if dtype != mx.bfloat16 else 2**-8)
    assert mx.array_equal(packed.cut(10, 20)[1:2], back)


def test_sizes_that_mlx_does_not_take_stay_as_they_are() -> None:
    assert [group_of(dim) for dim in (16, 48, 80, 96, 128, 192, 256)] == [0, 0, 0, 32, 64, 64, 64]
    assert Packed.of(mx.zeros((1, 1, 4, 80))) is None
    assert Packed.of(mx.zeros((1, 1, 4, 64), mx.int32)) is None


@pytest.mark.slow
def test_more_conversations_fit_and_come_back(folder: Path) -> None:
    """With the same budget, those that were squeezed are found again."""

    def found(**settings: object) -> int:
        driver = Driver(folder, cache_bytes=2_000_000, **settings)
        heads = [message("system", f"{n} {standard_library_text(2000)}") for n in range(6)]
        for n, head in enumerate(heads):
            driver.run(request(str(n), [head]))
        assert driver.engine.store.nbytes <= 2_000_000
        answers = [driver.engine.prepare(request(str(n), [head])).payload.packed for n, head in enumerate(heads)]
        return sum(driver.engine.store.peek("", packed) > 500 for packed in answers)

    assert found(cache_bits=8) > found(cache_bits=0)


def test_what_was_squeezed_goes_on_at_full_precision(folder: Path) -> None:
    driver = start(folder)
    driver.run(request("a", CONVERSATION))
    store = driver.engine.store
    exact_bytes = store.nbytes
    store._squeeze(list(store._buffers), 0)
    assert store.nbytes < 0.35 * exact_bytes, "of 32 bits"
    driver.check()
    driver.submit(request("b", [*CONVERSATION, message("assistant", "yes"), message("user", "more")], max_tokens=40))
    driver.step_until(lambda: len(driver.tokens["b"]) > 2)
    (lent,) = (buffer for buffer in store._buffers if buffer.is_lent)
    assert all(leaf.keys.dtype == mx.float32 for leaf in lent.leaves)
    driver.step_until(lambda: not driver.engine.has_work())
    driver.check()
    assert store.nbytes == sum(buffer._count_bytes() for buffer in store._buffers)


def sizes(state: Path) -> int:
    return sum(path.stat().st_size for path in state.rglob("*.safetensors"))


def test_files_are_small_and_read_by_workers_with_any_setting(folder: Path, tmp_path: Path) -> None:
    states = {bits: tmp_path / str(bits) for bits in (0, 8)}
    for bits, state in states.items():
        driver = start(folder, cache_bits=bits, state_dir=state, ssd_cache_bytes=1 << 30)
        driver.run(request("a", CONVERSATION))
        driver.engine.unload()
    assert sizes(states[8]) < 0.4 * sizes(states[0])
    for bits in (0, 8):
        driver = start(folder, cache_bits=bits, state_dir=states[8], ssd_cache_bytes=1 << 30)
        (answer,) = driver.run(request("b", CONVERSATION, max_tokens=8))
        assert answer.usage.restored_tokens > 0.9 * answer.usage.input_tokens
        driver.check()
        driver.engine.unload()


def test_a_damaged_part_is_computed_again(folder: Path, tmp_path: Path) -> None:
    driver = start(folder, state_dir=tmp_path, ssd_cache_bytes=1 << 30)
    driver.run(request("a", CONVERSATION))
    driver.engine.unload()
    for file in tmp_path.rglob("*.safetensors"):
        assert MappedFile(file).names[-1].endswith(".offsets")
        file.write_bytes(file.read_bytes()[:-64] + bytes(64))
    driver = start(folder, state_dir=tmp_path, ssd_cache_bytes=1 << 30)
    (answer,) = driver.run(request("b", CONVERSATION))
    assert answer.usage.restored_tokens == 0
    driver.check()
    driver.engine.unload()


def test_other_bits_are_refused_at_the_start() -> None:
    assert load_settings(environ={"MLX_GATEWAY_CACHE_BITS": "8"}).cache_bits == 8
    with pytest.raises(ConfigError, match="must be 0 or 8"):
        load_settings(environ={"MLX_GATEWAY_CACHE_BITS": "4"})
