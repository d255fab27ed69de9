"""Ends what tests have started when the process that runs them is gone, also when it was killed.

Each such process marks its environment, which all inherit that come of it, and starts one of these, whose standard
input it alone holds open. At its end whoever still bears the mark is asked to end, and killed after a while.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time

import psutil

MARK = "MLXGW_TESTED_BY"
GRACE_S = 20.0
_POLL_S = 0.1


def begin() -> None:
    """For this process, from now on."""
    os.environ[MARK] = f"{os.getpid()}-{secrets.token_hex(8)}"
    ours, _held_to_our_end = os.pipe()
    quiet = subprocess.DEVNULL
    undertaker = subprocess.Popen(
        [sys.executable, __file__], stdin=ours, stdout=quiet, stderr=quiet, start_new_session=True
    )
    undertaker.returncode = 0  # nobody waits for it: it outlives this process
    os.close(ours)


def _bearers(mark: str) -> list[psutil.Process]:
    """(The environment of processes that end, or that are others', cannot be read.)"""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _bury(mark: str) -> None:
    """What they start while they end is found as well."""
    end_s = time.monotonic() + GRACE_S
    asked: set[psutil.Process] = set()
    while left := _bearers(mark):
        is_late = time.monotonic() > end_s
        for process in left:
            if is_late or process not in asked:
                with_what = process.kill if is_late else process.terminate
                try:
                    with_what()
                except psutil.NoSuchProcess:
                    continue
        asked |= set(left)
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _bury(os.environ[MARK])
