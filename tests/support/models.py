"""Checkpoints for tests: where the trained ones lie, and fixtures that make random-weight ones once per test run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.models.random_checkpoint import build_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO_MODEL = REPOSITORY / "worker" / "demo_model"
AGENT_FULL = REPOSITORY / "tests" / "models" / "agent-full"

CheckpointMaker = Callable[..., Path]


def some(values: Iterable[Any], *fast: Any) -> list[Any]:
    """All of these as parameters of a test, all but the `fast` ones for the slow run."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointMaker:
    """`random_checkpoint(preset, params=…, seed=…, dtype=…, wordy=…)` -> folder; made once per process and arguments.

    Small by default (300,000 parameters), so that a model takes well under a second to make and to run.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    made: dict[tuple[object, ...], Path] = {}

    def make(preset: str, *, params: float = 3e5, seed: int = 0, dtype: str = "float32", wordy: bool = True) -> Path:
        key = (preset, params, seed, dtype, wordy)
        if key not in made:
            out = folder / f"{preset}-{len(made)}"
            made[key] = build_checkpoint(preset, out, params=params, seed=seed, dtype=dtype, wordy=wordy)
        return made[key]

    return make


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The trained tool-calling model of the package: sliding window, right at any length."""
    return DEMO_MODEL


@pytest.fixture(scope="session")
def agent_full() -> Path:
    """The trained tool-calling model with full attention: right up to about 1,000 tokens."""
    return AGENT_FULL
