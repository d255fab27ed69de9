"""Every architecture that mlx-lm has, at tiny size: what its own generation says is said cold, from the cache, from the
disk and in a batch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model, quantize_model

from shared.events import Completion, assemble
from shared.messages import Message, TextPart
from shared.request import GenerateRequest, SamplingParams
from tests.models.architectures import CHUNK_DEPENDENT, MEMORY_ONLY, NOT_RUN, architectures, build_architecture
from tests.models.random_checkpoint import standard_library_text
from tests.support.graphs import edges_behind
from tests.support.mlx_engine import Driver, message, request

TOLERANCE = 5e-3  # of logprobs: float32 sums in another order
CHUNK_TOLERANCE = 5e-2
CHUNK_TOKENS = 128
ANSWER_TOKENS = 6
METADATA_STEPS = 64  # after which the engine evaluates what a model may never read of its caches
EDGES_OF_A_STEP = 40  # how much of a pass is under way differs


def words(start: int, count: int) -> str:
    return " ".join(standard_library_text(100_000).split()[start : start + count])


def asked(key: str, messages: list[Message]) -> GenerateRequest:
    sampling = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0, top_logprobs=1)
    return request(key, messages, sampling=sampling)


def answers(driver: Driver, other: Driver, *requests: GenerateRequest) -> list[Completion]:
    """What `driver` says to prompts as `other` tokenises them: what was generated is recalled there as it was."""
    for item in requests:
        driver.submit_prepared(other.engine.prepare(item))
    driver.step_until(lambda: not driver.engine.has_work())
    driver.check()
    return [assemble(driver.events[item.id]) for item in requests]


def said(answer: Completion) -> list[tuple[str, float]]:
    return [(entry.token, entry.logprob) for entry in answer.logprobs]


def check_same(mine: list[tuple[str, float]], theirs: list[tuple[str, float]], tolerance: float) -> None:
    """The same tokens with the same logprobs, up to where two tokens were equally likely."""
    for (token, logprob), (expected, its_logprob) in zip(mine, theirs, strict=True):
        assert logprob == pytest.approx(its_logprob, abs=tolerance)
        if token != expected:
            return


def generated_by_mlx_lm(driver: Driver, item: GenerateRequest) -> list[tuple[str, float]]:
    loaded: Any = driver.engine._loaded
    prompt = mx.array(driver.engine.prepare(item).payload.prompt.tokens)
    out: list[tuple[str, float]] = []
    for token, logits in generate_step(prompt, loaded.model, max_tokens=ANSWER_TOKENS):
        logprobs = logits.astype(mx.float32) - mx.logsumexp(logits.astype(mx.float32))
        out.append((loaded.tokenizer.decode([token]), float(logprobs[token])))
    return out


def quantized(folder: Path, out: Path) -> Path:
    """The model in `folder` again, in 4 bits, its weights in two files, with two tokens that end an answer."""
    model, config = quantize_model(*load_model(folder), group_size=32, bits=4)
    weights = dict(tree_flatten(model.parameters()))
    out.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (out / name).write_bytes((folder / name).read_bytes())
    names = sorted(weights)
    files = {name: f"model-0000{1 + index * 2 // len(names)}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: weights[name] for name in names if files[name] == file}
        mx.save_safetensors(str(out / file), part, metadata={"format": "mlx"})
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (out / "config.json").write_text(json.dumps({**config, "eos_token_id": [2, 0]}))
    return out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers warns of configs as short as these
@pytest.mark.parametrize("architecture", [name for name in architectures() if name not in NOT_RUN])
def test_answers_are_mlx_lms_own_however_they_were_computed(architecture: str, tmp_path: Path) -> None:
    tolerance = CHUNK_TOLERANCE if architecture in CHUNK_DEPENDENT else TOLERANCE
    folder = build_architecture(architecture, tmp_path / "model")
    check_answers(folder, tmp_path, tolerance, is_stored=architecture not in MEMORY_ONLY)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["qwen3", "mixtral", "qwen3_next", "gpt_oss"])
def test_so_are_those_of_models_in_4_bits_and_several_files(architecture: str, tmp_path: Path) -> None:
    folder = quantized(build_architecture(architecture, tmp_path / "model"), tmp_path / "quantized")
    check_answers(folder, tmp_path, TOLERANCE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", [name for name in architectures() if name not in NOT_RUN])
def test_no_graph_grows_with_the_steps(architecture: str, tmp_path: Path) -> None:
    """Neither behind one row nor behind several in a batch."""
    driver = Driver(build_architecture(architecture, tmp_path / "model"), options={"drafting": "off"})
    for rows in (1, 3):
        keys = submit_endless(driver, rows)
        driver.step_until(lambda keys=keys: all(driver.tokens[key] for key in keys))
        first, later = most_edges(driver, METADATA_STEPS), most_edges(driver, METADATA_STEPS)
        assert len(driver.engine._decoder) == rows
        assert later <= first + EDGES_OF_A_STEP
        for key in keys:
            driver.engine.cancel(key)


def submit_endless(driver: Driver, rows: int) -> list[str]:
    loaded: Any = driver.engine._loaded
    no_end = dict.fromkeys(loaded.tokenizer.eos_token_ids, -100.0)
    sampling = SamplingParams(max_tokens=400, temperature=0.0, logit_bias=no_end)
    keys = [f"{row} of {rows}" for row in range(rows)]
    driver.submit(
        *(
            request(key, [message("user", words(100 * row, 20 + row))], sampling=sampling)
            for row, key in enumerate(keys)
        )
    )
    return keys


def most_edges(driver: Driver, steps: int) -> int:
    """Behind all that the decoder holds, at the most in so many steps."""
    most = 0
    for _ in range(steps):
        driver.step()
        most = max(most, sum(edges_behind(group._cache) for group in driver.engine._decoder._groups))
    return most


def check_answers(folder: Path, tmp_path: Path, tolerance: float, *, is_stored: bool = True) -> None:
    same = functools.partial(check_same, tolerance=tolerance)
    open_driver = functools.partial(Driver, folder, prefill_step_tokens=CHUNK_TOKENS, options={"drafting": "off"})
    kept: dict[str, Any] = {"state_dir": tmp_path / "state", "ssd_cache_bytes": 1 << 30}
    cold, warm = open_driver(cache_bytes=1), open_driver(**kept)

    first = [message("system", words(0, 60)), message("user", words(500, 20))]
    (answer,) = warm.run(asked("first", first))
    same(said(answer), generated_by_mlx_lm(warm, asked("first", first)))

    text = "".join(part.text for part in answer.parts if isinstance(part, TextPart))
    grown = [*first, message("assistant", text or "ok"), message("user", words(700, 10))]
    (answer,) = answers(warm, warm, asked("grown", grown))
    computed = answer.usage.input_tokens - answer.usage.cached_tokens
    appended = answer.usage.input_tokens - len(warm.engine.prepare(asked("first", first)).payload.prompt.tokens)
    assert computed < appended
    forked = [first[0], message("user", words(900, 15))]
    (fork,) = answers(warm, warm, asked("forked", forked))
    assert fork.usage.cached_tokens > fork.usage.input_tokens // 2

    (cold_answer,) = answers(cold, warm, asked("grown", grown))
    (cold_fork,) = answers(cold, warm, asked("forked", forked))
    same(said(answer), said(cold_answer))
    same(said(fork), said(cold_fork))

    short = asked("short", [message("user", words(1000, 5))])
    (cold_short,) = answers(cold, warm, short)
    together = answers(cold, warm, short, asked("grown", grown), asked("forked", forked))
    for mine, theirs in zip(together, (cold_short, cold_answer, cold_fork), strict=True):
        same(said(mine), said(theirs))

    prepared = warm.engine.prepare(asked("again", grown))
    warm.engine.unload()
    restored = open_driver(**kept)
    restored.submit_prepared(prepared)
    restored.step_until(lambda: not restored.engine.has_work())
    again = assemble(restored.events["again"])
    restored.engine.unload()
    same(said(again), said(cold_answer))
    assert (again.usage.restored_tokens > again.usage.input_tokens // 2) == is_stored
