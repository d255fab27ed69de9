"""Installs, shows and removes a service with whatever keeps services on this machine."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.command.ends import failed, not_there
from gateway.command.service import launchd, systemd
from gateway.command.service.unit import Unit
from shared.private_files import private_folder

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """launchd or systemd: the files that it wants for a unit, with their content, and what is said to it."""

    name: str
    files: Mapping[Path, bytes]
    install: Sequence[Sequence[str]]
    restart: Sequence[Sequence[str]]
    uninstall: Sequence[Sequence[str]]
    status: Sequence[str]


def keeper_of(unit: Unit, *, is_system: bool = False, platform: str = sys.platform, home: Path | None = None) -> Keeper:
    home = Path.home() if home is None else home
    return _launchd(unit, home) if platform == "darwin" else _systemd(unit, home, is_system=is_system)


def _launchd(unit: Unit, home: Path) -> Keeper:
    path = launchd.plist_path(unit, home)
    return Keeper(
        name="launchd",
        files={path: launchd.render_plist(unit)},
        install=launchd.install_commands(unit, path, os.getuid()),
        restart=launchd.restart_commands(unit, os.getuid()),
        uninstall=launchd.uninstall_commands(unit, os.getuid()),
        status=launchd.status_command(unit, os.getuid()),
    )


def _systemd(unit: Unit, home: Path, *, is_system: bool) -> Keeper:
    user = getpass.getuser()
    path = systemd.unit_path(unit, home, is_system=is_system)
    return Keeper(
        name="systemd",
        files={
            path: systemd.render_unit(unit, is_system=is_system, user=user).encode(),
            systemd.environment_path(unit): systemd.render_environment(unit.environment).encode(),
        },
        install=systemd.install_commands(unit, is_system=is_system, user=user),
        restart=systemd.restart_commands(unit, is_system=is_system),
        uninstall=systemd.uninstall_commands(unit, is_system=is_system),
        status=systemd.status_command(unit, is_system=is_system),
    )


def run_command(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(words), capture_output=True, text=True, check=False)


def install(unit: Unit, keeper: Keeper, run: Run = run_command) -> None:
    """Raises `ConfigError` (failed), with what the keeper said; its files stay for a look."""
    _check_there(keeper)
    private_folder(unit.log.parent)
    for path, content in keeper.files.items():
        try:
            _write(path, content)
        except OSError as error:
            raise failed(f"{path} cannot be written: {error.strerror}") from error
    for words in keeper.install:
        _must(words, run)


def restart(keeper: Keeper, run: Run = run_command) -> None:
    """As it is installed now, after running requests had their time. Raises `ConfigError` (not there, failed)."""
    _check_installed(keeper)
    for words in keeper.restart:
        _must(words, run)


def uninstall(keeper: Keeper, run: Run = run_command) -> list[str]:
    """What was removed. Raises `ConfigError` (not_there) when nothing was installed."""
    there = [path for path in keeper.files if path.exists()]
    if not there:
        raise not_there(f"no such service is installed: {', '.join(map(str, keeper.files))}")
    if shutil.which(keeper.uninstall[0][0]) is not None:
        for words in keeper.uninstall:
            run(words)  # whoever stopped it by hand has done this already
    for path in there:
        path.unlink()
    return [str(path) for path in there]


def status(keeper: Keeper, run: Run = run_command) -> str:
    """In the keeper's own words. Raises `ConfigError` (not_there) when nothing is installed."""
    _check_installed(keeper)
    said = run(keeper.status)
    return (said.stdout + said.stderr).strip()


def _check_installed(keeper: Keeper) -> None:
    if not any(path.exists() for path in keeper.files):
        raise not_there(f"no such service is installed: {', '.join(map(str, keeper.files))}")
    _check_there(keeper)


def _check_there(keeper: Keeper) -> None:
    program = keeper.status[0]
    if shutil.which(program) is None:
        raise failed(f"{program} is not here: {keeper.name} keeps no services on this machine (see --print)")


def _must(words: Sequence[str], run: Run) -> None:
    said = run(words)
    if said.returncode:
        text = (said.stderr or said.stdout).strip() or f"exit status {said.returncode}"
        raise failed(f"{' '.join(words)}: {text}")


def _write(path: Path, content: bytes) -> None:
    """For its owner alone from the first moment: it may hold a key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.new")
    written.unlink(missing_ok=True)
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    written.replace(path)
