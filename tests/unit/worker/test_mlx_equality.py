"""What the cache, the disk, batching and chunking may not change: the answer."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import Message, TextPart
from shared.request import GenerateRequest, SamplingParams
from tests.models.random_checkpoint import standard_library_text
from tests.support.examples import examples
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import AGENT_FULL, DEMO_MODEL, CheckpointMaker, some

PRESETS = (
    "full",
    "window",
    "gpt-oss",
    "qwen3-next",
    "falcon-h1",
    *(pytest.param(preset, marks=pytest.mark.slow) for preset in ("llama", "gemma3", "hybrid", "mamba2")),
)
LOGPROB_TOLERANCE = 2e-3  # float32 sums in another order


def words(seed: int, count: int) -> str:
    source = standard_library_text(100_000).split()
    start = random.Random(seed).randrange(len(source) - count)
    return " ".join(source[start : start + count])


def text_of(part: object) -> str:
    assert isinstance(part, TextPart)
    return part.text


def with_logprobs(key: str, messages: list[Message]) -> GenerateRequest:
    return request(key, messages, sampling=SamplingParams(max_tokens=16, temperature=0.0, top_logprobs=0))


@pytest.mark.parametrize("preset", PRESETS)
def test_growing_conversation_and_branches_answer_the_same_from_the_cache_as_cold(
    preset: str, random_checkpoint: CheckpointMaker
) -> None:
    folder = random_checkpoint(preset)
    warm = Driver(folder)
    cold = Driver(folder, cache_bytes=1)
    conversation: list[Message] = [message("system", words(1, 200)), message("user", words(2, 30))]
    for turn in range(2):
        branch = [*conversation[:-1], message("user", words(50 + turn, 20))]
        (answer,) = warm.run(with_logprobs(f"turn{turn}", conversation))
        (fork,) = warm.run(with_logprobs(f"fork{turn}", branch))
        (expected,) = cold.run(with_logprobs(f"turn{turn}", conversation))
        (expected_fork,) = cold.run(with_logprobs(f"fork{turn}", branch))
        assert warm.tokens == cold.tokens
        for mine, theirs in ((answer, expected), (fork, expected_fork)):
            assert [entry.logprob for entry in mine.logprobs] == pytest.approx(
                [entry.logprob for entry in theirs.logprobs], abs=LOGPROB_TOLERANCE
            )
        assert expected.usage.cached_tokens == expected_fork.usage.cached_tokens == 0
        if turn:
            assert answer.usage.cached_tokens > answer.usage.input_tokens * 0.7
        assert fork.usage.cached_tokens > fork.usage.input_tokens * 0.7
        conversation += [message("assistant", text_of(answer.parts[0])), message("user", words(20 + turn, 15))]


@pytest.mark.parametrize("preset", PRESETS)
def test_requests_answer_the_same_together_as_alone(preset: str, random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint(preset)
    system = message("system", words(1, 80))
    requests = [
        request(str(i), [system, message("user", words(i, 5 + 40 * i))], max_tokens=6 + 5 * i) for i in range(5)
    ]
    alone = Driver(folder, cache_bytes=1)
    for item in requests:
        alone.run(item)
    together = Driver(folder)
    together.submit(*requests[:3])
    for _ in range(6):
        together.step()
    together.submit(*requests[3:])
    together.step_until(lambda: not together.engine.has_work())
    together.check()
    assert together.tokens == alone.tokens


# Conversations as trees: each entry is (the earlier entry it goes on from, or -1; what the user says).
QUESTIONS = ("hi", "run: `ls -la`", "what is this?", "run: `cat notes.txt` twice", "thank you")
TREES = st.lists(st.tuples(st.integers(-1, 5), st.sampled_from(QUESTIONS), st.integers(0, 40)), min_size=2, max_size=6)


def grow(driver: Driver, tree: list[tuple[int, str, int]], *, tag: str) -> dict[int, list[Message]]:
    """Each entry's conversation, answered by `driver` one after the other."""
    grown: dict[int, list[Message]] = {}
    for index, (parent, question, filler) in enumerate(tree):
        before = grown.get(min(parent, index - 1), [message("system", words(3, 60))])
        asked = [*before, message("user", f"{words(index, filler + 1)}\n{question}")]
        driver.run(request(f"{tag}{index}", asked, max_tokens=20))
        answer = driver.events[f"{tag}{index}"]
        said = "".join(event.text for event in answer if hasattr(event, "text"))
        grown[index] = [*asked, message("assistant", said or "ok")]
    return grown


@pytest.mark.parametrize("folder", some((DEMO_MODEL, AGENT_FULL), AGENT_FULL), ids=["window", "full"])
@examples(3, thorough=12)
@given(tree=TREES)
def test_trained_models_say_the_same_cold_cached_batched_and_restored(
    folder: Path, tree: list[tuple[int, str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as state:
        on_disk = {"state_dir": Path(state), "ssd_cache_bytes": 1 << 30}
        cached = Driver(folder, **on_disk)
        grown = grow(cached, tree, tag="")
        prompts = {str(index): messages[:-1] for index, messages in grown.items()}
        requests = [request(key, messages, max_tokens=20) for key, messages in prompts.items()]
        cached.engine.unload()
        batched, cold, restored = Driver(folder), Driver(folder, cache_bytes=1), Driver(folder, **on_disk)
        batched.run(*requests)
        for item in requests:
            cold.run(item)
            (answer,) = restored.run(item)
            assert answer.usage.cached_tokens > 0
        restored.engine.unload()
    assert cached.tokens == cold.tokens
    assert batched.tokens == cold.tokens
    assert restored.tokens == cold.tokens
