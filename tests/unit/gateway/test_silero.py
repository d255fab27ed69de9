"""`mlx-gateway detector`: packages that are what they should be, all of their files or none."""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import tarfile
import urllib.error
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import silero
from gateway.command import detector
from gateway.command.ends import FAILED, NOT_THERE
from gateway.silero import PACKAGES, Package, folder_of, is_there, read_file, unpack
from shared.config import Settings
from shared.errors import ConfigError


def packed(package: Package) -> tuple[Package, bytes]:
    """One with the same names, whose files hold their names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("../../outside", *(f"package/dist/{name}" for name in package.files)):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    data = buffer.getvalue()
    return replace(package, sha512=base64.b64encode(hashlib.sha512(data).digest()).decode()), data


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages as `npm pack` leaves them."""
    made = [packed(package) for package in PACKAGES]
    monkeypatch.setattr(detector, "PACKAGES", tuple(package for package, _ in made))
    folder = tmp_path / "packages"
    folder.mkdir()
    for package, data in made:
        (folder / package.packed).write_bytes(data)
    return folder


def fetched(state_dir: Path, folder: Path | None) -> int:
    return detector.fetch_detector(Settings(state_dir=state_dir), argparse.Namespace(packed=folder))


def test_packages_that_a_person_brought_are_unpacked_and_nothing_else_of_them(
    brought: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    assert not is_there(state)
    assert fetched(state, brought) == 0
    assert {path.name for path in folder_of(state).iterdir()} == silero.NAMES
    assert read_file(state, "ort.wasm.min.mjs") == b"package/dist/ort.wasm.min.mjs"
    assert {path.name for path in tmp_path.iterdir()} == {"packages", "state"}
    assert fetched(state, None) == 0, "it is there, and nothing is fetched again"
    assert "it is there" in capsys.readouterr().out
    (folder_of(state) / "ort.wasm.min.mjs").unlink()
    assert fetched(state, brought) == 0
    assert is_there(state), "what was incomplete is whole again"


def test_a_state_folder_that_cannot_be_written_is_told(brought: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match=r"state cannot be written"):
        fetched(tmp_path / "state", brought)


def test_a_package_that_is_another_is_refused_and_nothing_is_left(brought: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    last = brought / PACKAGES[-1].packed
    last.write_bytes(last.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match=r"is not onnxruntime-web .* digest"):
        fetched(state, brought)
    assert not is_there(state)


def test_a_package_that_is_not_in_the_folder_is_named(tmp_path: Path, brought: Path) -> None:
    (brought / PACKAGES[0].packed).unlink()
    with pytest.raises(ConfigError, match=r"ricky0123-vad-web-0.0.31.tgz cannot be read") as caught:
        fetched(tmp_path / "state", brought)
    assert caught.value.details["status"] == NOT_THERE


def test_where_the_registry_cannot_be_reached_the_way_without_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(ConfigError, match=r"no route.*npm pack .*--from FOLDER") as caught:
        fetched(tmp_path / "state", None)
    assert caught.value.details["status"] == FAILED


def test_packages_are_where_npm_has_them() -> None:
    assert [package.url for package in PACKAGES] == [
        "https://registry.npmjs.org/@ricky0123/vad-web/-/vad-web-0.0.31.tgz",
        "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.23.2.tgz",
    ]
    with pytest.raises(ConfigError, match=r"is not @ricky0123/vad-web 0.0.31"):
        unpack(PACKAGES[0], b"")
