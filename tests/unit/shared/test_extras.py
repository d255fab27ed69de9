"""What is missing comes with the line that installs it, and what is there stays."""

from __future__ import annotations

import tomllib
from importlib.metadata import Distribution, PathDistribution

import pytest

from shared.extras import _SIGNS, archive_url, install_line
from tests.support.processes import REPOSITORY

TOOL = "/home/a/.local/share/uv/tools/mlx-gateway"


@pytest.mark.parametrize(
    ("prefix", "there", "line"),
    [
        (TOOL, (), "uv tool install --reinstall 'mlx-gateway[gguf]'"),
        (
            "/home/a/.local/share/uv/tools/mlx-gateway",
            ("mlx_lm",),
            "uv tool install --reinstall 'mlx-gateway[gguf,mlx]'",
        ),
        ("/home/a/.local/share/pipx/venvs/mlx-gateway", (), "pipx install --force 'mlx-gateway[gguf]'"),
        ("/home/a/project/.venv", ("xllamacpp", "cryptography"), "py -m pip install 'mlx-gateway[gguf,share]'"),
    ],
)
def test_the_line_is_that_of_the_installation(prefix: str, there: tuple[str, ...], line: str) -> None:
    assert install_line("gguf", prefix=prefix, program="py", is_there=there.__contains__) == line


def test_what_came_from_a_wheel_is_installed_from_it_again() -> None:
    def line(prefix: str) -> str:
        return install_line(
            "share",
            prefix=prefix,
            program="py",
            is_there=("mlx_lm",).__contains__,
            find_archive=lambda: "file:///a.whl",
        )

    assert line(TOOL) == "uv tool install --reinstall 'mlx-gateway[mlx,share] @ file:///a.whl'"
    assert line("/home/a/pipx/venvs/mlx-gateway") == "pipx install --force 'mlx-gateway[mlx,share] @ file:///a.whl'"
    assert line("/home/a/.venv") == "py -m pip install 'mlx-gateway[mlx,share]'"


@pytest.mark.parametrize(
    ("told", "url"),
    [
        ('{"url": "file:///a.whl", "archive_info": {}}', "file:///a.whl"),
        ('{"url": "file:///src", "dir_info": {"editable": true}}', ""),
        ("{", ""),
        (None, ""),
    ],
)
def test_the_archive_is_what_the_installer_noted(told: str | None, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(self: Distribution, name: str) -> str | None:
        return told if name == "direct_url.json" else None

    monkeypatch.setattr(PathDistribution, "read_text", noted)
    assert archive_url() == url


def test_every_extra_that_is_looked_for_is_one_of_ours() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(_SIGNS) <= set(project["optional-dependencies"])
