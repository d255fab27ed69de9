"""A GGUF engine as a worker has it, over llama.cpp's own server from the xllamacpp wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.registry import ModelSpec
from tests.support.asked import Asked
from worker.engines.gguf.source import GgufSource

needs_wheel = pytest.mark.skipif(
    find_spec("xllamacpp") is None,
    reason="LLAMA.CPP WAS NOT TESTED: there is no xllamacpp wheel for this platform",
)
_TIMEOUT_S = 60.0


@contextmanager
def gguf_engine(
    source: Path, state: Path, *, settings: dict[str, Any] | None = None, **options: Any
) -> Iterator[Asked]:
    # One thread: on a busy machine several wait for each other.
    options = {"binary": "wheel", "slots": 2, "context_tokens": 4096, "default_args": ["-t", "1"], **options}
    spec = ModelSpec(id="m", source=str(source), engine="gguf", options=options)
    asked = Asked(GgufSource(spec, Settings(state_dir=state, **{"capacity": 4, **(settings or {})})))
    try:
        yield asked
    finally:
        assert asked.engine.unload(_TIMEOUT_S)
