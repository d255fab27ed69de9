"""The bundle for a Mac: its layout, its Info.plist, and a launcher that works from wherever it lies. macOS is not here:
a stand-in for its Python shows what the launcher runs; the item in the menu bar is not drawn."""

from __future__ import annotations

import plistlib
import subprocess
import tomllib
from pathlib import Path

import pytest

from deploy.macos.__main__ import EXTRAS, LAUNCHER, NAME, build, main
from gateway.command.cli import build_parser
from tests.support.processes import REPOSITORY

WHEEL = Path("dist/mlx_gateway-0.3.0-py3-none-any.whl")


def say_what_is_run(_: Path, python: Path) -> None:
    """In place of a Python: tells its own path and what it is given."""
    (python / "bin").mkdir(parents=True)
    (python / "bin" / "python3").write_text('#!/bin/sh\necho "$0"\nprintf "%s\\n" "$@"\n')
    (python / "bin" / "python3").chmod(0o755)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return build(WHEEL, tmp_path, say_what_is_run)


def test_its_property_list_names_a_program_that_is_there_and_the_release(app: Path) -> None:
    told = plistlib.loads((app / "Contents" / "Info.plist").read_bytes())
    program = app / "Contents" / "MacOS" / told["CFBundleExecutable"]
    assert program.stat().st_mode & 0o111 == 0o111
    assert (told["CFBundleShortVersionString"], told["CFBundlePackageType"]) == ("0.3.0", "APPL")
    assert told["LSUIElement"] is True, "an item in the menu bar, and none in the Dock"
    assert (app / "Contents" / "PkgInfo").read_text() == "APPL????"
    assert sorted(path.name for path in (app / "Contents").iterdir()) == ["Info.plist", "MacOS", "PkgInfo", "Resources"]


@pytest.mark.parametrize(("given", "run"), [((), ["menu"]), (("status", "--json"), ["status", "--json"])])
def test_its_launcher_finds_its_own_python_wherever_it_lies(
    app: Path, tmp_path: Path, given: tuple[str, ...], run: list[str]
) -> None:
    moved = tmp_path / "some where" / NAME
    moved.parent.mkdir()
    app.rename(moved)
    said = subprocess.run([moved / "Contents/MacOS/mlx-gateway", *given], capture_output=True, text=True, check=True)
    python, *words = said.stdout.splitlines()
    assert Path(python) == (moved / "Contents/Resources/python/bin/python3").resolve()
    assert words == ["-P", "-m", "gateway.command.cli", *run]
    assert build_parser().parse_args(words[3:]).command == run[0]


def test_nothing_in_it_names_a_folder_of_the_machine_that_built_it(app: Path, tmp_path: Path) -> None:
    texts = [path.read_bytes() for path in app.rglob("*") if path.is_file()]
    assert not any(str(tmp_path).encode() in text for text in texts)
    assert "/Users/" not in LAUNCHER


def test_one_that_was_there_is_replaced(app: Path) -> None:
    (app / "Contents" / "Resources" / "old").write_text("")
    build(WHEEL, app.parent, say_what_is_run)
    assert not (app / "Contents" / "Resources" / "old").exists()


def test_what_is_no_wheel_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected mlx_gateway-"):
        build(Path("mlx_gateway-0.3.0.tar.gz"), tmp_path, say_what_is_run)


def test_its_extras_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) <= set(extras)


def test_elsewhere_than_on_a_mac_none_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert main([str(WHEEL), str(tmp_path)]) == 0
    assert "where macOS is" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
