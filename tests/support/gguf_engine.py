"""A GGUF engine as a worker has it, over llama.cpp's own server from the xllamacpp wheel."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.events import Completion, Event, EventOrder, assemble
from shared.registry import ModelSpec
from shared.request import GenerateRequest, Resume
from worker.engines.base import Output
from worker.engines.gguf.source import GgufSource
from worker.engines.streamed import StreamedEngine

needs_wheel = pytest.mark.skipif(
    find_spec("xllamacpp") is None,
    reason="LLAMA.CPP WAS NOT TESTED: there is no xllamacpp wheel for this platform",
)
_TIMEOUT_S = 60.0


class Asked:
    """An engine at work: its outbox, and a way to ask it."""

    def __init__(self, source: Path, settings: Settings, **options: Any) -> None:
        spec = ModelSpec(id="m", source=str(source), engine="gguf", options=options)
        self.source = GgufSource(spec, settings)
        self.engine = StreamedEngine(self.source)
        self.info = self.engine.load(lambda done: None)
        self.events: dict[str, list[Event]] = {}
        self.token_ids: dict[str, list[int]] = {}
        self.error: BaseException | None = None
        self._orders: dict[str, EventOrder] = {}
        self._changed = threading.Condition()
        self.engine.start(self)

    # -- the outbox

    def emit(self, outputs: Sequence[Output]) -> None:
        with self._changed:
            for output in outputs:
                for event in output.events:
                    self._orders[output.key].feed(event)
                self.events[output.key] += output.events
                self.token_ids[output.key] += output.token_ids
            self._changed.notify_all()

    def alive(self) -> None:
        pass

    def broken(self, error: BaseException) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()

    # -- asking

    def submit(self, request: GenerateRequest, resume: Resume | None = None) -> str:
        prepared = self.engine.prepare(request, resume)
        with self._changed:
            self._orders[request.id] = EventOrder()
            self.events[request.id], self.token_ids[request.id] = [], []
        self.emit([Output(key=request.id, events=prepared.past)])
        self.engine.submit(prepared)
        return request.id

    def wait_tokens(self, key: str, count: int) -> None:
        self._wait(lambda: len(self.token_ids[key]) >= count, f"{count} tokens of {key}")

    def wait_end(self, key: str) -> Completion:
        self._wait(lambda: self._orders[key].ended, f"the end of {key}")
        return assemble(self.events[key])

    def answer(self, request: GenerateRequest) -> Completion:
        return self.wait_end(self.submit(request))

    def _wait(self, condition: Any, what: str) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: self.error is not None or condition(), _TIMEOUT_S)
            assert self.error is None, f"the engine broke: {self.error}"
            assert done, f"not in time: {what}"

    def kill_server(self) -> None:
        assert self.source.server is not None
        self.source.server.kill()


@contextmanager
def gguf_engine(
    source: Path, state: Path, *, settings: dict[str, Any] | None = None, **options: Any
) -> Iterator[Asked]:
    # One thread: on a busy machine several wait for each other.
    options = {"binary": "wheel", "slots": 2, "context_tokens": 4096, "default_args": ["-t", "1"], **options}
    asked = Asked(source, Settings(state_dir=state, **{"capacity": 4, **(settings or {})}), **options)
    try:
        yield asked
    finally:
        assert asked.engine.unload(_TIMEOUT_S)
