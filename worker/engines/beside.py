"""What engines have in common that write no answers: all their work is done beside a batch that they do not have, on
one thread that alone touches the device, in turns with the other workers of the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import mlx.core as mx

from shared.config import Settings, model_folders
from shared.registry import ModelSpec
from worker.device.turns import Turns
from worker.engines.base import EngineStats
from worker.engines.no_answers import NoAnswers
from worker.model_folder import find_model

_T = TypeVar("_T")


class EngineBeside(NoAnswers):
    """Of `worker.engines.base.Engine` everything but `load`."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self.spec = spec
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, spec.engine)
        self._turns: Turns | None = None
        self._began_s: float | None = None  # the present piece of work on the device

    def find_folder(self) -> Path:
        """The model's. Raises `ModelUnavailableError`."""
        return find_model(self.spec.source, *model_folders())

    def on_device(self, work: Callable[[], _T]) -> _T:
        """What the work gives, which is done on the device's thread."""
        return self._thread.submit(work).result()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The device for one piece of work. On its thread."""
        if self._turns is None and self._settings.state_dir.is_absolute():  # what all workers of this host share
            self._turns = Turns(self._settings.state_dir / "device", mx.synchronize)
        with self._turns.turn() if self._turns is not None else nullcontext():
            self._began_s = time.monotonic()
            try:
                yield
            finally:
                self._began_s = None

    def stats(self) -> EngineStats:
        began_s = self._began_s
        return EngineStats(stalled_s=0.0 if began_s is None else time.monotonic() - began_s)

    def unload(self, timeout_s: float) -> bool:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._turns is not None:
            self._turns.close()
        return True
