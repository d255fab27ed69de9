"""Looks for a newer release, installs it, and replaces what runs, part by part.

What runs goes on while the release is installed beside it. Then each part finishes what it holds and starts anew: the
host first, whose conversations go to other Macs meanwhile, then the gateway, whose socket `up` keeps, so that whoever
connects waits instead of being refused.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from gateway.command.ends import failed
from gateway.command.runfile import Running, read_running
from gateway.command.service.manage import Keeper, keeper_of, restart
from gateway.command.service.unit import KINDS, build_unit
from gateway.command.upgrade.installation import Installation, look_words, release_in, upgrade_words
from shared.config import Settings

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
_LOOK_S: Final = 0.25
_LOAD_S: Final = 1800.0  # for the largest model to be there again, and for what runs to finish
_LAST_LINES: Final = 5


def run_words(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Raises `ConfigError` (failed) where there is no such program."""
    try:
        return subprocess.run(list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError as error:
        raise failed(f"{words[0]} is not on the PATH: it has installed this, and upgrades it") from error


def newest(installation: Installation, now: str, links: str, run: Run = run_words) -> str | None:
    """The release that there is beyond `now`; empty for none, None where that cannot be told. Raises `ConfigError`
    (failed)."""
    words = look_words(installation, links)
    return release_in(_said(words, run), but=now) if words else None


def install(installation: Installation, links: str, run: Run = run_words) -> str:
    """The release that is there then. Raises `ConfigError` (failed), with the installer's last words; what runs is as
    it was."""
    _said(upgrade_words(installation, links), run)
    return installed_release(installation.python, run)


def installed_release(python: str, run: Run = run_words) -> str:
    """As a new process finds it: this one may know the release before."""
    asked = "import importlib.metadata as m; print(m.version('mlx-gateway'))"
    return _said([python, "-I", "-c", asked], run).strip()


def _said(words: Sequence[str], run: Run) -> str:
    done = run(words)
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-_LAST_LINES:])
        raise failed(f"`{' '.join(words)}` has failed (exit status {done.returncode}):\n{last}")
    return done.stdout


def plan(settings: Settings) -> Iterator[str]:
    """What would be started anew, for a person."""
    running = read_running(settings.state_dir)
    if running is not None:
        yield f"`up` (pid {running.pid}) would drain its host, then its gateway, and start both anew"
    for kind, keeper in services(settings):
        yield f"{keeper.name} would restart the {kind}"
    if running is None and not any(services(settings)):
        yield f"nothing runs on {settings.state_dir}: nothing would be started anew"


def services(settings: Settings) -> Iterator[tuple[str, Keeper]]:
    """Those that are installed for this state folder, without an `up`: it replaces its parts by itself."""
    for kind in KINDS:
        if kind != "stack":
            unit = build_unit(
                kind, arguments=(), state_dir=settings.state_dir, drain_s=settings.drain_s, environment={}
            )
            keeper = keeper_of(unit)
            if any(_is_of(path, settings.state_dir) for path in keeper.files):
                yield kind, keeper


def _is_of(path: Path, state_dir: Path) -> bool:
    return path.exists() and str(state_dir) in path.read_text(errors="replace")


def replace_running(settings: Settings, release: str, say: Callable[[str], None]) -> None:
    """Until everything that ran is of `release`. Raises `ConfigError` (failed)."""
    running = read_running(settings.state_dir)
    if running is not None:
        _renew(settings.state_dir, running, release, say)
    for kind, keeper in services(settings):
        restart(keeper)
        say(f"{keeper.name} has started the {kind} again")


def _renew(folder: Path, running: Running, release: str, say: Callable[[str], None]) -> None:
    if not running.parts_release:
        raise failed(
            f"{release} is installed; `up` (pid {running.pid}) is too old to replace its parts: `mlx-gateway stop`, "
            "and start it again"
        )
    os.kill(running.pid, signal.SIGUSR1)
    end_s, told = time.monotonic() + _LOAD_S, ""
    while running is not None and running.parts_release != release:
        if time.monotonic() > end_s:
            raise failed(f"`up` (pid {running.pid}) has not replaced its parts: see `mlx-gateway logs`")
        if running.renewing != told:
            told = running.renewing
            say(f"{told} finishes what it holds, and starts anew" if told else "all parts have started anew")
        time.sleep(_LOOK_S)
        found = read_running(folder)
        if found is None:
            raise failed("`up` has ended meanwhile: see `mlx-gateway logs`")
        running = found


def say_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
