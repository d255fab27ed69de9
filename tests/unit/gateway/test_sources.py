"""A wrong `--model` is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.command.cli import main
from gateway.command.ends import NOT_THERE
from gateway.command.sources import check_sources
from shared.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "LMSTUDIO_MODELS_DIR", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("source", ["/no/such/folder", "./nowhere", "~/nowhere", "~nobody-at-all/m", "/" + "x" * 5000])
def test_a_path_where_nothing_is_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        check_sources([source], "mlx")


def test_an_id_of_which_nothing_is_here_is_refused_with_what_fetches_it() -> None:
    with pytest.raises(ConfigError, match="mlx-gateway pull maker/model"):
        check_sources(["maker/model"], "mlx")


def test_what_is_here_is_taken(home: Path) -> None:
    (home / "folder").mkdir()
    (home / "x.gguf").touch()
    (home / ".cache" / "huggingface" / "hub" / "models--maker--model").mkdir(parents=True)
    (home / ".lmstudio" / "models" / "other" / "model").mkdir(parents=True)
    check_sources([str(home / "folder"), "~/folder", "~/x.gguf", "maker/model", "other/model"], "mlx")


def test_engines_without_files_take_any_name() -> None:
    check_sources(["echo", "/no/such/folder"], "echo")


@pytest.mark.parametrize("command", ["up", "host", "worker"])
def test_nothing_is_started_for_a_model_that_is_not_there(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = home / "state"
    assert main([command, "--model", "/no/such/folder", "--state", str(state)]) == NOT_THERE
    assert capsys.readouterr().err == "mlx-gateway: --model /no/such/folder: no such file or folder\n"
    assert not (state / "logs").exists()
