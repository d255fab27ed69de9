"""Drives a real MLX engine in the test's own thread, as the worker's engine thread does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from shared.config import Settings
from shared.events import Completion, Event, EventOrder, assemble
from shared.messages import Message, Role, TextPart
from shared.registry import ModelSpec
from shared.request import GenerateRequest, SamplingParams
from worker.engines.base import Output, Prepared
from worker.engines.mlx.engine import MlxEngine


def message(role: Role, text: str) -> Message:
    return Message(role=role, parts=(TextPart(text=text),))


def request(key: str, messages: Iterable[Message], *, max_tokens: int = 24, **more: Any) -> GenerateRequest:
    """A greedy request unless `sampling` says otherwise."""
    sampling = more.pop("sampling", None) or SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return GenerateRequest(id=key, model="m", messages=tuple(messages), sampling=sampling, **more)


class Driver:
    """An engine's core with everything its requests gave: events and token ids by request id, checked for legal order.
    It is the core's outbox."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        settings.setdefault("cache_min_reuse_tokens", 16)
        settings.setdefault("ssd_cache_bytes", -1)
        options = settings.pop("options", {})
        self.engine = MlxEngine(ModelSpec(id="m", source=str(folder), options=options), Settings(**settings))
        self.engine.load(lambda done: None)
        self.events: dict[str, list[Event]] = {}
        self.tokens: dict[str, list[int]] = {}
        self._orders: dict[str, EventOrder] = {}
        self._heard: list[str] = []

    def submit(self, *requests: GenerateRequest) -> None:
        for item in requests:
            self.submit_prepared(self.engine.prepare(item))

    def submit_prepared(self, prepared: Prepared) -> None:
        key = prepared.key
        self.events[key], self.tokens[key], self._orders[key] = [], [], EventOrder()
        for event in prepared.past:
            self._orders[key].feed(event)
        self.engine.submit(prepared)

    def step(self) -> list[str]:
        """One step; the ids of the requests it had something for."""
        self._heard.clear()
        if not self.engine.step(self):
            self.engine.wait()
        return list(self._heard)

    def emit(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            for event in output.events:
                self._orders[output.key].feed(event)
            self.events[output.key] += output.events
            self.tokens[output.key] += output.token_ids
            self._heard.append(output.key)

    def alive(self) -> None:
        pass

    def broken(self, error: BaseException) -> None:
        raise error

    def step_until(self, condition: Callable[[], bool], *, steps: int = 10_000) -> None:
        for _ in range(steps):
            if condition():
                return
            self.step()
        raise AssertionError("the condition was never met")

    def run(self, *requests: GenerateRequest) -> list[Completion]:
        """Submit the requests together and run everything to its end."""
        self.submit(*requests)
        self.step_until(lambda: not self.engine.has_work())
        self.check()
        return [assemble(self.events[item.id]) for item in requests]

    def check(self) -> None:
        """The prefix cache is sound, and pins only what running requests need."""
        index = self.engine.store.index
        index.check_integrity()
        if not self.engine.has_work():
            assert not any(node.pins for node in index.nodes())
