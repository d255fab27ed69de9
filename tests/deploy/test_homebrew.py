"""The Homebrew formula: of the release that it names, with commands that exist. Homebrew is not run: it is macOS's."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from deploy.homebrew.__main__ import main, render
from gateway.command.cli import build_parser
from tests.support.processes import REPOSITORY


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mlx_gateway-0.3.0.tar.gz"
    path.write_bytes(b"sources")
    return path


def test_a_formula_names_its_release_and_its_digest(source: Path) -> None:
    text = render(source, "https://example.org/mlx_gateway-0.3.0.tar.gz")
    assert 'version "0.3.0"' in text
    assert f'sha256 "{hashlib.sha256(b"sources").hexdigest()}"' in text
    assert 'url "https://example.org/mlx_gateway-0.3.0.tar.gz"' in text
    assert f'url "{source.as_uri()}"' in render(source)


def test_what_is_no_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected mlx_gateway-"):
        render(tmp_path / "mlx_gateway-0.3.0-py3-none-any.whl")


def test_it_starts_stops_and_completes_with_commands_that_are_taken(source: Path) -> None:
    text = render(source)
    found = re.findall(r'bin/"mlx-gateway", ((?:"[^"]+"|port\.to_s|testpath/"state"|, )+)', text)
    assert len(found) == 3
    for words in found:
        plain = words.replace("port.to_s", '"0"').replace('testpath/"state"', '"state"')
        given = re.findall(r'"([^"]+)"', plain)
        assert build_parser().parse_args([*given, "bash"] if given == ["completion"] else given).command == given[0]
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (wanted,) = re.findall(r"buildpath\}\[([\w,]+)\]", text)
    assert set(wanted.split(",")) <= set(extras)


def test_its_blocks_are_closed(source: Path) -> None:
    lines = render(source).splitlines()
    opened = sum(bool(re.match(r"\s*(class|def) |.* do$", line)) for line in lines)
    assert opened == sum(line.strip() == "end" for line in lines)


def test_ruby_reads_it(source: Path) -> None:
    if shutil.which("ruby") is None:
        pytest.skip("NO RUBY HERE: the formula's syntax was not checked")
    assert main([str(source)]) == 0
    subprocess.run(["ruby", "-c", str(source.with_name("mlx-gateway.rb"))], check=True, capture_output=True)
