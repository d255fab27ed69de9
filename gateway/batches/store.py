"""The ledger for an event loop: its calls are made on a thread of its own, one after the other."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from gateway.batches.ledger import Ledger
from shared.errors import OverloadedError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_RETRY_AFTER_S = 5.0


class BatchStore:
    """`woken` is set when there is something new to do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.woken = asyncio.Event()
        self._ledger: Ledger | None = None
        self._thread = ThreadPoolExecutor(1, "batches")

    async def call(self, do: Callable[Concatenate[Ledger, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What a method of the ledger gives. Raises its errors, and `OverloadedError` when the disk does not take it.
        Not interrupted by who waits for it."""
        work = functools.partial(self._do, do, *args, **kwargs)
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _do(self, do: Callable[Concatenate[Ledger, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            if self._ledger is None:
                self._ledger = Ledger(self.path)
            return do(self._ledger, *args, **kwargs)
        except (sqlite3.Error, OSError) as error:
            raise OverloadedError(
                f"files and batches cannot be stored or read now: {error}", retry_after_s=_RETRY_AFTER_S
            ) from error

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
