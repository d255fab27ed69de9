"""Keeps a Mac from falling asleep under an answer, and only then.

macOS sleeps when nobody touches it, whatever its programs do. `caffeinate -i` holds that off for as long as it runs,
and with `-w` no longer than this process. A hold is kept for a while after the last answer, so that a conversation's
next turn finds the machine awake. Elsewhere nothing is held; in tests another command stands in for `caffeinate`, which
does not prove that macOS heeds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from shared.beats import until_beat_s
from shared.processes import GuardedProcess

logger = logging.getLogger(__name__)

AFTER_S: Final = 60.0
_LOOK_EVERY_S: Final = 1.0


class Awake:
    """Runs `command` while it is held; without one, nothing. Raises nothing: an answer is worth more than a hold."""

    def __init__(self, command: Sequence[str], *, after_s: float = AFTER_S) -> None:
        self._command = tuple(command)
        self._after_s = after_s
        self._process: GuardedProcess | None = None
        self._at_work_s = float("-inf")

    @property
    def is_held(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def is_begun(self) -> bool:
        """Whether there is a hold that is to end some time, if somebody did not end it."""
        return self._process is not None

    def note(self, *, is_at_work: bool, now_s: float) -> None:
        """How things are now; to be told again and again while somebody is at work or a hold is begun."""
        if is_at_work:
            self._at_work_s = now_s
        if not self._command:
            return
        if is_at_work and not self.is_held:
            self._hold()
        elif self._process is not None and now_s - self._at_work_s >= self._after_s:
            self.release()

    def _hold(self) -> None:
        try:
            self._process = GuardedProcess(self._command, grace_s=1.0)
        except OSError as error:
            logger.warning("the machine may fall asleep under an answer: %s", error)
            self._command = ()

    def release(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.stop()


def build_awake(platform: str = sys.platform) -> Awake:
    return Awake(("caffeinate", "-i", "-w", str(os.getpid())) if platform == "darwin" else ())


async def keep_awake(awake: Awake, is_at_work: Callable[[], bool], stopping: asyncio.Event) -> None:
    """Until `stopping`."""
    try:
        while not stopping.is_set():
            now_at_work = is_at_work()
            if now_at_work or awake.is_begun:
                await asyncio.to_thread(awake.note, is_at_work=now_at_work, now_s=time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat_s(_LOOK_EVERY_S)):
                    await stopping.wait()
    finally:
        awake.release()
