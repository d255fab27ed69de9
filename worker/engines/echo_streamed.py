"""The echo engine as a server would be: each answer a stream of its own, at its own pace, on one event loop.

It obeys the same lines, takes the same options and says the same words as `worker.engines.echo`; `step_ms` is the time
of a word of one stream, whatever else runs. It is shipped so that what carries servers is used and tested by the whole
stack. What it does not prove: HTTP, and a server's own errors.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable

from shared.config import Settings
from shared.registry import ModelSpec
from shared.request import GenerateRequest, Resume
from worker.engines.base import EngineInfo, EngineStats, Output, Prepared
from worker.engines.echo_model import LOAD_STEPS, EchoAnswer, EchoModel
from worker.engines.echo_script import count_words
from worker.engines.streamed import EngineBrokenError


class EchoSource:
    """See the module's text and `worker.engines.streamed.Source`."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self._model = EchoModel(spec, settings)
        self._thawed = threading.Event()
        self._waiting_tokens = 0

    async def load(self, report: Callable[[float], None]) -> EngineInfo:
        for step in range(LOAD_STEPS):
            report(step / LOAD_STEPS)
            await asyncio.sleep(self._model.options.load_ms / 1000 / LOAD_STEPS)
        report(1.0)
        return self._model.info(can_pause=False)

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        return self._model.prepare(request, resume)

    def count(self, request: GenerateRequest) -> int:
        return count_words(request)

    async def answer(self, prepared: Prepared) -> AsyncGenerator[Output, None]:
        answer = EchoAnswer(prepared, self._model)
        yield answer.start()
        await asyncio.sleep(answer.restore_s)
        while not answer.is_over and answer.uncomputed_tokens:
            tokens = self._model.chunk_tokens(answer.depth, answer.uncomputed_tokens)
            await asyncio.sleep(self._model.cost.predict_s(answer.depth, answer.depth + tokens))
            yield answer.prefilled(tokens)
        while not answer.is_over:
            await asyncio.sleep(self._model.options.step_ms / 1000)
            await self._obey(answer.plan.mode)
            yield answer.say()

    async def _obey(self, mode: str) -> None:
        if mode == "hang":
            await asyncio.Event().wait()
        if mode == "freeze":
            self._thawed.wait()  # the loop stands still
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "break":
            raise EngineBrokenError("echo:break")

    def stats(self) -> EngineStats:
        return self._model.stats()

    def thaw(self) -> None:
        """Let a frozen loop turn again."""
        self._thawed.set()

    async def close(self) -> None:
        """Nothing is held."""
