"""Memory and disk of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from gateway.command.checks.finding import Finding, fine, remark

_GB: Final = 1e9
_MB: Final = 1e6
_LITTLE_ROOM: Final = 0.05  # of a disk
_TRIAL_BYTES: Final = 16 * 1024 * 1024
_SLOW_MB_S: Final = 100.0  # a disk at which prefixes come back slower than many Macs compute them
_LITTLE_MEMORY_BYTES: Final = 8e9
_WIRED: Final = b"iogpu.wired_limit_mb"


def check_memory(
    *, total: int | None = None, available: int | None = None, wired_mb: Callable[[], int | None] | None = None
) -> Finding:
    """With what the GPU of a Mac may use of it, where a person has changed that."""
    memory = psutil.virtual_memory()
    total = memory.total if total is None else total
    available = memory.available if available is None else available
    limit = (wired_mb or _wired_limit_mb)()
    wired = "" if not limit else f"; the GPU may use {limit * 1.048576e6 / _GB:.1f} GB (iogpu.wired_limit_mb)"
    text = f"{total / _GB:.1f} GB, {available / _GB:.1f} GB of it free{wired}"
    if total < _LITTLE_MEMORY_BYTES:
        return remark("memory", f"{text}; models of more than 3 billion parameters will not fit")
    return fine("memory", text)


def _wired_limit_mb() -> int | None:
    """0 for macOS's own choice, None where there is none."""
    if sys.platform != "darwin":
        return None
    value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
    with contextlib.suppress(OSError):
        failed = ctypes.CDLL(None).sysctlbyname(_WIRED, ctypes.byref(value), ctypes.byref(size), None, 0)
        return None if failed else int(value.value)
    return None


def check_disk(folder: Path) -> Finding:
    """Room, and how fast it takes what is written: by writing, into a file that goes at once."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    room = f"{usage.free / _GB:.1f} GB of {usage.total / _GB:.1f} GB free"
    if usage.free < _LITTLE_ROOM * usage.total:
        return remark("disk", f"{room}: make room, or bound the cache with MLX_GATEWAY_SSD_CACHE_BYTES")
    try:
        rate = _written_mb_s(folder)
    except OSError as error:
        return remark("disk", f"{room}; it cannot be written: {error}")
    if rate < _SLOW_MB_S:
        return remark("disk", f"{room}, written at {rate:.0f} MB/s: a slow place for caches; see --state")
    return fine("disk", f"{room}, written at {rate:.0f} MB/s")


def _written_mb_s(folder: Path) -> float:
    path = folder / f".disk-trial-{os.getpid()}"
    block = os.urandom(1024 * 1024)
    began_s = time.monotonic()
    try:
        with path.open("xb") as file:
            for _ in range(_TRIAL_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return _TRIAL_BYTES / _MB / max(1e-6, time.monotonic() - began_s)
    finally:
        path.unlink(missing_ok=True)
