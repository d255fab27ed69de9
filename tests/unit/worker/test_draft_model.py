"""The draft model reads what the served model reads, once, and says what it would say itself."""

from __future__ import annotations

import random
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from tests.support.models import CheckpointMaker
from worker.engines.mlx.decode.draft_model import DraftModel
from worker.engines.mlx.model.models import LoadedModel, load

MUCH = 1 << 30


def loaded(folder: Path) -> LoadedModel:
    return load(folder, max_context_tokens=0, report=lambda done: None)


def text(seed: int, length: int) -> list[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(2000) for _ in range(length)]


def calls_until_ready(draft: DraftModel, key: str, tokens: list[int]) -> int:
    for calls in range(1000):
        if draft.is_ready(key, tokens):
            return calls
    raise AssertionError("it never got ready")


def greedy(model: LoadedModel, tokens: list[int], count: int) -> list[int]:
    cache = make_prompt_cache(model.model)
    said: list[int] = []
    unread = tokens
    for _ in range(count):
        token = int(mx.argmax(model.model(mx.array([unread]), cache=cache)[0, -1]).item())
        said.append(token)
        unread = [token]
    return said


@pytest.mark.parametrize("preset", ["full", "window", "gpt-oss", "hybrid", "falcon-h1"])
def test_it_says_what_it_would_say_alone_however_much_of_it_was_accepted(
    preset: str, random_checkpoint: CheckpointMaker
) -> None:
    model = loaded(random_checkpoint(preset))
    draft = DraftModel(model, vocab=model.vocab, max_bytes=MUCH, reading_share=1.0)
    tokens = text(1, 280)
    calls_until_ready(draft, "a", tokens)
    for accepted in (0, 3, 8, 1, 5):
        said = draft.draft("a", tokens, 8)
        assert said == greedy(model, tokens, 8)
        tokens = [*tokens, *said[:accepted], 17 + accepted]
        assert draft.is_ready("a", tokens)


def test_a_long_prompt_is_read_in_pieces_between_which_the_stream_goes_on(random_checkpoint: CheckpointMaker) -> None:
    model = loaded(random_checkpoint("full"))
    draft = DraftModel(model, vocab=model.vocab, max_bytes=MUCH, reading_share=1.0)
    assert calls_until_ready(draft, "a", text(1, 1200)) >= 3
    slow = DraftModel(model, vocab=model.vocab, max_bytes=MUCH, reading_share=1e-6)
    assert not any(slow.is_ready("a", text(1, 1200)) for _ in range(50))


@pytest.mark.parametrize("preset", ["full", "window", "hybrid"])
def test_the_next_turn_of_a_conversation_is_not_read_anew(preset: str, random_checkpoint: CheckpointMaker) -> None:
    model = loaded(random_checkpoint(preset))
    draft = DraftModel(model, vocab=model.vocab, max_bytes=MUCH, reading_share=1.0)
    tokens = text(1, 400)
    calls_until_ready(draft, "a", tokens)
    draft.draft("a", tokens, 4)
    draft.end("a")
    other = text(2, 300)
    calls_until_ready(draft, "side", other)
    draft.end("side")
    following = [*tokens, *text(3, 20)]
    assert calls_until_ready(draft, "b", following) == 0
    assert draft.draft("b", following, 6) == greedy(model, following, 6)


def test_a_branch_reads_on_from_where_it_parts(random_checkpoint: CheckpointMaker) -> None:
    model = loaded(random_checkpoint("full"))
    draft = DraftModel(model, vocab=model.vocab, max_bytes=MUCH, reading_share=1.0)
    tokens = text(1, 400)
    calls_until_ready(draft, "a", tokens)
    draft.draft("a", tokens, 4)
    draft.end("a")
    branch = [*tokens[:380], *text(4, 10)]
    assert calls_until_ready(draft, "b", branch) == 0
    assert draft.draft("b", branch, 6) == greedy(model, branch, 6)


def test_it_takes_no_more_memory_than_it_was_given(random_checkpoint: CheckpointMaker) -> None:
    model = loaded(random_checkpoint("full"))
    sizes = [leaf.nbytes for leaf in _filled(model, 256)]
    draft = DraftModel(model, vocab=model.vocab, max_bytes=2 * sum(sizes), reading_share=1.0)
    assert not any(draft.is_ready("too long", text(1, 600)) for _ in range(20))
    draft.end("too long")
    for key in ("a", "b", "c"):
        tokens = text(ord(key), 250)
        calls_until_ready(draft, key, tokens)
        draft.draft(key, tokens, 2)
        draft.end(key)
    assert calls_until_ready(draft, "c again", [*text(ord("c"), 250), 5]) == 0
    assert calls_until_ready(draft, "a again", [*text(ord("a"), 250), 5]) > 0


def _filled(model: LoadedModel, tokens: int) -> list[object]:
    cache = make_prompt_cache(model.model)
    mx.eval(model.model(mx.zeros((1, tokens), mx.int32), cache=cache))
    return cache


def test_tokens_that_only_one_of_the_models_knows_do_no_harm(random_checkpoint: CheckpointMaker) -> None:
    model = loaded(random_checkpoint("full"))
    draft = DraftModel(model, vocab=1, max_bytes=MUCH, reading_share=1.0)
    tokens = [*text(1, 20), model.vocab + 7]
    assert draft.is_ready("a", tokens)
    assert draft.draft("a", tokens, 4) == []
