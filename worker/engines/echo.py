"""An engine without a model: it says back what the user said, one word per step.

It is shipped so that the whole stack runs on a laptop without a GPU and in tests, deterministic and quick. It
keeps the contract of engines to the letter: continuous batching, prefill in chunks, cancellation, pauses, tool calls,
stop sequences, limits. A token is a word. With rates and a cache (`echo_model.EchoOptions`) it passes for a Mac of that
size, which is how many Macs are tried on one machine. What it does not prove: templates, tokenizers, tool parsing, what
is in a cache, memory, sampling, and anything about speed but the stack's own and what the rates say.

Lines of the last user message may ask for more than an echo: see `worker.engines.echo_script`. Options of the model
spec: `step_ms` 0 (time of a step that generates), `prefill_tokens_per_s` 0 (instant), `load_ms` 0, `context_tokens`
200000, and those of the cache, which is off.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from shared.config import Settings
from shared.grants import Grant
from shared.registry import ModelSpec
from shared.request import PRIORITIES, GenerateRequest, Resume
from worker.device.turns import Turns
from worker.engines.base import EngineInfo, EngineStats, Outbox, Output, Prepared
from worker.engines.echo_cache import EchoCache
from worker.engines.echo_model import LOAD_STEPS, EchoAnswer, EchoModel
from worker.engines.echo_script import count_words

_WAIT_S = 0.001


class EchoEngine:
    """See the module's text and `worker.engines.stepped.Core`."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self._model = EchoModel(spec, settings)
        self._capacity = settings.capacity
        self._running: dict[str, EchoAnswer] = {}
        self._paused: dict[str, EchoAnswer] = {}  # the longest first
        self._thawed = threading.Event()
        self._stats = self._model.stats()

    def open_turns(self) -> Turns | None:
        """There is no device."""
        return None

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        for step in range(LOAD_STEPS):
            report(step / LOAD_STEPS)
            _pause(self._model.options.load_ms / 1000 / LOAD_STEPS)
        report(1.0)
        return self._model.info(can_pause=True)

    def locate(self, request: GenerateRequest, grant: Grant) -> None:
        """It fetches nothing."""

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        return self._model.prepare(request, resume)

    def count(self, request: GenerateRequest) -> int:
        return count_words(request)

    def submit(self, prepared: Prepared) -> None:
        self._running[prepared.key] = EchoAnswer(prepared, self._model)
        self._note_stats()

    def pause(self, key: str) -> None:
        if key in self._running:
            self._paused[key] = self._running.pop(key)
            self._note_stats()

    def cancel(self, key: str) -> None:
        for answers in (self._running, self._paused):
            answer = answers.pop(key, None)
            if answer is not None:
                answer.leave()
        self._note_stats()

    def step(self, outbox: Outbox, arrive: Callable[[], None] = lambda: None) -> bool:
        self._go_on()
        has_done = self._tell(self._decode(), outbox)
        arrive()
        for phase in (self._begin, self._prefill):
            has_done = self._tell(phase(), outbox) or has_done
        self._note_stats()
        return has_done

    def _tell(self, outputs: list[Output], outbox: Outbox) -> bool:
        """Whether there was anything to tell. What is over goes."""
        if outputs:
            self._running = {key: answer for key, answer in self._running.items() if not answer.is_over}
            outbox.emit(outputs)
        return bool(outputs)

    def has_work(self) -> bool:
        return bool(self._running or self._paused)

    def wait(self) -> None:
        _pause(_WAIT_S)  # everything hangs: do not spin

    @property
    def store(self) -> EchoCache:
        return self._model.cache

    def needs_turn(self) -> bool:
        return False

    def idle(self) -> float | None:
        """Nothing is ever left over."""
        return None

    def stats(self) -> EngineStats:
        return self._stats

    def _note_stats(self) -> None:
        running = list(self._running.values())
        waiting = [answer.uncomputed_tokens for answer in running if answer.uncomputed_tokens]
        by_class = dict.fromkeys(PRIORITIES, 0.0)
        for answer in running:
            by_class[answer.priority] += answer.waiting_s()
        self._stats = replace(
            self._model.stats(),
            running=len(running) - len(waiting),
            waiting=len(waiting) + len(self._paused),
            waiting_tokens=sum(waiting),
            waiting_s=tuple(by_class.values()),
        )

    def unload(self) -> None:
        self._thawed.set()
        self._running.clear()
        self._paused.clear()

    def _go_on(self) -> None:
        """With those that were paused, where there is a place again."""
        while self._paused and len(self._running) < self._capacity:
            key = next(iter(self._paused))
            self._running[key] = self._paused.pop(key)

    def _decode(self) -> list[Output]:
        decoding = [answer for answer in self._running.values() if answer.is_started and not answer.uncomputed_tokens]
        if decoding:
            _pause(self._model.options.step_ms / 1000)
        return [output for answer in decoding if (output := self._say(answer)) is not None]

    def _say(self, answer: EchoAnswer) -> Output | None:
        mode = answer.plan.mode
        if mode == "hang":
            return None
        if mode == "freeze":
            self._thawed.wait()
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "break":
            raise RuntimeError("echo:break")
        return answer.say()

    def _begin(self) -> list[Output]:
        """The prompt that is computed next, where it was not begun; where prompts take no time, all of them."""
        if not self._model.cost.is_known:
            return [answer.start() for answer in self._running.values() if not answer.is_started]
        answer = self._next_prompt()
        if answer is None or answer.is_started:
            return []
        outputs = [answer.start()]
        _pause(answer.restore_s)
        return outputs

    def _prefill(self) -> list[Output]:
        """One chunk of one prompt that was begun, in the same step where it was begun just now."""
        answer = self._next_prompt()
        if answer is None or not answer.is_started:
            return []
        tokens = self._model.chunk_tokens(answer.depth, answer.uncomputed_tokens)
        _pause(self._model.cost.predict_s(answer.depth, answer.depth + tokens))
        return [answer.prefilled(tokens)]

    def _next_prompt(self) -> EchoAnswer | None:
        """The first of the highest class."""
        answers = (answer for answer in self._running.values() if not answer.is_started or answer.uncomputed_tokens)
        return min(answers, key=lambda answer: PRIORITIES.index(answer.priority), default=None)


def _pause(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)
