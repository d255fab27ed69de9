"""What is missing comes with the line that installs it, and what is there stays."""

from __future__ import annotations

import tomllib

import pytest

from shared.extras import _SIGNS, install_line
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


def test_every_extra_that_is_looked_for_is_one_of_ours() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(_SIGNS) <= set(project["optional-dependencies"])
