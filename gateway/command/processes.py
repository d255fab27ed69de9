"""`mlx-gateway ps` and `stop`: the processes of the `up` that runs on a state folder."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from gateway.command.ends import failed, not_running
from gateway.command.runfile import Running, read_running

_POLL_S: Final = 0.1
_MB: Final = 1024 * 1024
# What a command line must hold for the name; the first that fits.
_PARTS: Final = (
    ("guard.py", ""),
    ("worker.host.host", "host"),
    ("worker.files.helper", "files"),
    ("gateway.intake.helper", "bodies"),
    ("-m worker ", "worker"),
    ("-m gateway ", "gateway"),
    ("redis-server", "redis"),
    ("valkey-server", "redis"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A process of ours. `model` is what a worker serves; `cpu_s` is what it has used of a processor so far."""

    name: str
    pid: int
    rss_bytes: int
    cpu_s: float
    since_s: float
    model: str = ""


def need_running(state_dir: Path) -> Running:
    """Raises `ConfigError` (not_running)."""
    running = read_running(state_dir)
    if running is None:
        raise not_running(
            f"nothing is running on {state_dir}: start it with `mlx-gateway up`, or give the --state that it was "
            "started with"
        )
    return running


def parts_of(pid: int) -> Iterator[Part]:
    """Of an `up`: itself, then what it started, without their guards."""
    root = psutil.Process(pid)
    yield _part("up", root)
    for child in root.children(recursive=True):
        try:
            name = part_name(child.cmdline())
            if name:
                yield _part(name, child)
        except psutil.Error:
            continue  # it has just ended


def part_name(words: Sequence[str]) -> str:
    """Empty for a guard, and for what is none of ours."""
    said = " ".join(words) + " "
    return next((name for sign, name in _PARTS if sign in said), "")


def _part(name: str, process: psutil.Process) -> Part:
    with process.oneshot():
        words = process.cmdline()
        times = process.cpu_times()
        model = next((word.removeprefix("--name=") for word in words if word.startswith("--name=")), "")
        return Part(
            name=name,
            pid=process.pid,
            rss_bytes=process.memory_info().rss,
            cpu_s=times.user + times.system,
            since_s=process.create_time(),
            model=model if name == "worker" else "",
        )


def describe_part(part: Part, now_s: float) -> str:
    minutes = (now_s - part.since_s) / 60
    return (
        f"{part.name:8} {part.pid:>7} {part.rss_bytes / _MB:>8.0f} MB {part.cpu_s:>9.1f} s cpu "
        f"{minutes:>8.1f} min  {part.model}"
    ).rstrip()


def _has_ended(pid: int) -> bool:
    """Also what is over and whose parent has not looked at it yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def stop_running(running: Running, *, wait_s: float, is_hurried: bool = False) -> None:
    """Until it has ended. Raises `ConfigError` (failed) when it does not in that time."""
    try:
        os.kill(running.pid, signal.SIGTERM)
        if is_hurried:
            time.sleep(_POLL_S)
            os.kill(running.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise failed(f"`up` (pid {running.pid}) is another user's") from error
    end_s = time.monotonic() + wait_s
    while not _has_ended(running.pid):
        if time.monotonic() > end_s:
            raise failed(f"`up` (pid {running.pid}) has not stopped after {wait_s:.0f} s: see `mlx-gateway logs`")
        time.sleep(_POLL_S)
