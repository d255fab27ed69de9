"""`upgrade`: how an installation is told, what upgrades it, and what is said and done with what comes of that."""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from gateway.command.runfile import Running, write_running
from gateway.command.upgrade import run as upgrading
from gateway.command.upgrade.command import add_upgrade_arguments, run_upgrade
from gateway.command.upgrade.installation import (
    Installation,
    Way,
    find_installation,
    look_words,
    release_in,
    upgrade_words,
    way_of,
)
from shared.config import Settings
from shared.errors import ConfigError


def installation(way: Way, **fields: str) -> Installation:
    return Installation(way=way, prefix=Path("/env"), python="/env/bin/python", extras=("gguf", "mlx"), **fields)


@pytest.mark.parametrize(
    ("left", "where", "way"),
    [
        ("uv-receipt.toml", "tools/mlx-gateway", "uv"),
        ("pipx_metadata.json", "venvs/mlx-gateway", "pipx"),
        ("", "opt/Cellar/mlx-gateway/0.2.0/libexec", "brew"),
        ("", "somewhere/.venv", "pip"),
    ],
)
def test_an_installation_is_told_by_what_its_installer_left(tmp_path: Path, left: str, where: str, way: str) -> None:
    prefix = tmp_path / where
    prefix.mkdir(parents=True)
    if left:
        (prefix / left).touch()
    assert way_of(prefix) == way


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("uv", ["uv", "tool", "upgrade", "mlx-gateway"]),
        ("pipx", ["pipx", "upgrade", "mlx-gateway"]),
        ("brew", ["brew", "upgrade", "mlx-gateway"]),
    ],
)
def test_who_installed_it_upgrades_it(way: Way, words: list[str]) -> None:
    assert upgrade_words(installation(way)) == words


def test_pip_keeps_the_extras_that_are_there() -> None:
    words = upgrade_words(installation("pip"), "/releases")
    assert words[:4] == ["/env/bin/python", "-m", "pip", "install"]
    assert words[-4:] == ["--upgrade", "mlx-gateway[gguf,mlx]", "--find-links", "/releases"]


@pytest.mark.parametrize("way", ["uv", "pipx", "pip"])
def test_looking_changes_nothing(way: Way) -> None:
    assert "--dry-run" in look_words(installation(way), "/releases")
    assert look_words(installation(way), "/releases")[-2:] == ["--find-links", "/releases"]


def test_sources_are_never_touched() -> None:
    with pytest.raises(ConfigError, match=r"the sources in /home/a/mlx-gateway: `git pull`"):
        upgrade_words(installation("source", source="/home/a/mlx-gateway"))
    assert find_installation().way == "source"  # these tests


@pytest.mark.parametrize(
    ("said", "release"),
    [
        ("Collecting mlx-gateway\nWould install mlx-gateway-0.3.0 rich-15.0.0", "0.3.0"),
        ("Would install rich-15.0.0 mlx_gateway-0.10.1rc1", "0.10.1rc1"),
        (" - mlx-gateway==0.2.0\n + mlx-gateway==0.3.0", "0.3.0"),
        ("Requirement already satisfied: mlx-gateway in ./lib (0.2.0)", ""),
        ("Would install rich-15.0.0", ""),
        ("Audited 1 package in 2ms\nmlx-gateway==0.9.0 is yanked", ""),
    ],
)
def test_the_newest_release_is_read_from_what_would_be_installed(said: str, release: str) -> None:
    assert release_in(said, but="0.2.0") == release


@pytest.fixture
def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_upgrade_arguments(parser)
    return parser.parse_args([])


class Installer:
    """A package manager that has a release; `ran` is what it was asked to do, without what looks only."""

    def __init__(self, there: str, status: int = 0) -> None:
        self.now, self.there, self.status = "0.2.0", there, status
        self.ran: list[list[str]] = []

    def __call__(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        said, status = "", 0
        if "-c" in words:
            said = self.now
        elif "--dry-run" in words:
            said = f"Would install mlx-gateway-{self.there}" if self.there != self.now else "satisfied"
        else:
            self.ran.append(list(words))
            said, status = "No matching distribution", self.status
            self.now = self.now if status else self.there
        return subprocess.CompletedProcess(list(words), status, said, "")


@pytest.fixture
def with_installer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Installer], Installer]:
    def use(installer: Installer) -> Installer:
        for function in ("newest", "install"):
            bound = getattr(upgrading, function)
            monkeypatch.setattr(upgrading, function, partial(bound, run=installer))
        monkeypatch.setattr(upgrading, "installed_release", lambda *_: installer.now)
        monkeypatch.setattr("gateway.command.upgrade.command.find_installation", lambda: installation("pip"))
        monkeypatch.setattr(upgrading, "services", lambda settings: iter(()))
        return installer

    return use


Use = Callable[[Installer], Installer]


def test_check_says_what_would_be_and_does_nothing(
    tmp_path: Path, options: argparse.Namespace, with_installer: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    installer = with_installer(Installer("0.3.0"))
    options.check = True
    assert run_upgrade(Settings(state_dir=tmp_path), options) == 0
    said = capsys.readouterr().out
    assert "0.2.0 is installed, with pip; 0.3.0 would be" in said
    assert "nothing runs on" in said
    assert installer.ran == []


def test_the_newest_release_is_left_alone(
    tmp_path: Path, options: argparse.Namespace, with_installer: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    installer = with_installer(Installer("0.2.0"))
    assert run_upgrade(Settings(state_dir=tmp_path), options) == 0
    assert "0.2.0 is the newest release" in capsys.readouterr().out
    assert installer.ran == []


def test_an_installer_that_fails_is_quoted_and_what_runs_is_left_alone(
    tmp_path: Path, options: argparse.Namespace, with_installer: Use
) -> None:
    with_installer(Installer("0.3.0", status=1))
    running(tmp_path)
    with pytest.raises(ConfigError, match="No matching distribution"):
        run_upgrade(Settings(state_dir=tmp_path), options)


def running(folder: Path, **fields: str) -> None:
    write_running(folder, Running(pid=os.getpid(), url="http://127.0.0.1:1", redis_url="redis://", **fields))


def test_an_up_that_is_too_old_to_replace_its_parts_is_left_running(
    tmp_path: Path, options: argparse.Namespace, with_installer: Use
) -> None:
    """A signal that it does not know would end it, and every answer with it."""
    installer = with_installer(Installer("0.3.0"))
    running(tmp_path)
    with pytest.raises(ConfigError, match="too old to replace its parts"):
        run_upgrade(Settings(state_dir=tmp_path), options)
    assert installer.now == "0.3.0"


def test_a_release_that_was_asked_for_is_named(
    tmp_path: Path,
    options: argparse.Namespace,
    with_installer: Use,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uv keeps to it, and says that there is nothing to do."""
    with_installer(Installer("0.2.0"))
    pinned = installation("uv", pinned="==0.2.0")
    monkeypatch.setattr("gateway.command.upgrade.command.find_installation", lambda: pinned)
    assert run_upgrade(Settings(state_dir=tmp_path), options) == 0
    assert "installed as ==0.2.0" in capsys.readouterr().out
