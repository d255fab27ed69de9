"""Memory for a model is claimed before it is loaded: no two get the same, and who gets none knows what was missing."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from shared.errors import NoMemoryError
from tests.support.models import CheckpointMaker
from worker.device.claim import claim
from worker.device.neighbours import Neighbours, holdings_by_pid
from worker.engines.mlx.loading import draft_file_bytes
from worker.engines.mlx.memory.plan import weight_file_bytes

_WORKERS = 4


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def neighbours(folder: Path, stack: ExitStack) -> Neighbours:
    opened = Neighbours(folder)
    stack.callback(opened.close)
    return opened


def test_who_comes_first_keeps_its_memory_and_the_next_hears_what_is_missing(tmp_path: Path, stack: ExitStack) -> None:
    first, second = neighbours(tmp_path, stack), neighbours(tmp_path, stack)
    claim(first, 60, 100)
    with pytest.raises(NoMemoryError) as refused:
        claim(second, 50, 100)
    assert refused.value.details == {"needed_bytes": 50, "free_bytes": 40, "limit_bytes": 100}
    assert refused.value.retryable
    claim(second, 40, 100)
    first.close()
    third = neighbours(tmp_path, stack)
    claim(third, 60, 100)


def test_what_is_larger_than_all_memory_is_refused_alone_too() -> None:
    with pytest.raises(NoMemoryError, match="not enough memory"):
        claim(None, 101, 100)


def _claim(folder: Path, together: multiprocessing.synchronize.Barrier, said: Queue[bool], end: Queue[None]) -> None:
    mine = Neighbours(folder)
    together.wait()
    try:
        claim(mine, 60, 100)
        said.put(True)
    except NoMemoryError:
        said.put(False)
    end.get()


@pytest.mark.slow
def test_of_many_that_claim_at_the_same_moment_one_gets_the_memory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, said, end = context.Barrier(_WORKERS), context.Queue(), context.Queue()
    workers = [context.Process(target=_claim, args=(tmp_path, together, said, end)) for _ in range(_WORKERS)]
    for worker in workers:
        worker.start()
    try:
        assert sorted(said.get(timeout=60) for _ in workers) == [False] * (_WORKERS - 1) + [True]
        assert len([each for each in holdings_by_pid(tmp_path).values() if each.base_bytes]) == 1
    finally:
        for worker in workers:
            end.put(None)
            worker.join(40)


def test_a_draft_models_weights_count(random_checkpoint: CheckpointMaker) -> None:
    folder = random_checkpoint("full")
    assert draft_file_bytes(str(folder)) == weight_file_bytes(folder) > 0
    assert draft_file_bytes("") == draft_file_bytes("/no/such/model") == 0
