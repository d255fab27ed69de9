"""A streamed engine at work over any source, and a way to ask it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from shared.events import Completion, Event, EventOrder, assemble
from shared.request import GenerateRequest, Resume
from worker.engines.base import Output
from worker.engines.streamed import StreamedEngine

_TIMEOUT_S = 60.0


class Asked:
    """Its outbox; events and token ids by request, checked for legal order."""

    def __init__(self, source: Any, report: Callable[[float], None] = lambda done: None) -> None:
        self.source = source
        self.engine = StreamedEngine(source)
        self.info = self.engine.load(report)
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
        self.begin(request.id)
        self.emit([Output(key=request.id, events=prepared.past)])
        self.engine.submit(prepared)
        return request.id

    def begin(self, key: str) -> None:
        """Listen for what is said of it."""
        with self._changed:
            self._orders[key] = EventOrder()
            self.events[key], self.token_ids[key] = [], []

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
