"""Which engine is built, and what is said when it cannot be."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from shared.config import load_settings
from shared.errors import ConfigError, GatewayError, InternalError, ModelUnavailableError
from shared.registry import ENGINE_NAMES, ModelSpec
from worker.engines.echo import EchoEngine
from worker.engines.registry import _ENGINES, _Entry, build_engine
from worker.engines.stepped import SteppedEngine
from worker.engines.streamed import StreamedEngine
from worker.host.host import DEMO_MODEL

ENGINES = "worker.engines.registry._ENGINES"


def build(source: str = "e", engine: str = "mlx") -> object:
    spec = ModelSpec(id="e", source=source, engine=engine)  # type: ignore[arg-type]
    return build_engine(spec, load_settings(environ={}))


def refusal(monkeypatch: pytest.MonkeyPatch, folder: Path, module: str) -> GatewayError:
    """What is raised when the engine is a module with this text."""
    (folder / "made_up_engine.py").write_text(module)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "made_up_engine", raising=False)
    monkeypatch.setattr(ENGINES, {"mlx": _Entry("made_up_engine", "Engine", SteppedEngine)})
    with pytest.raises(GatewayError) as caught:
        build()
    return caught.value


def test_engines_are_built_by_name() -> None:
    engine = build(engine="echo")
    assert isinstance(engine, SteppedEngine)
    assert isinstance(engine.core, EchoEngine)
    assert isinstance(build(engine="echo-streamed"), StreamedEngine)


def test_every_engine_that_a_model_may_name_is_there() -> None:
    assert tuple(_ENGINES) == ENGINE_NAMES


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="abacus"):
        build(engine="abacus")


def test_an_engine_whose_packages_are_missing_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = refusal(monkeypatch, tmp_path, "import no_such_package.core")
    assert isinstance(error, ModelUnavailableError)
    assert error.message.startswith("engine mlx is not installed: No module named 'no_such_package'; install it: ")


def test_a_package_that_lacks_what_the_engine_needs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = refusal(monkeypatch, tmp_path, "from orjson import no_such_function")
    assert isinstance(error, ModelUnavailableError)
    assert "does not work with what is installed" in error.message
    assert "no_such_function" in error.message


@pytest.mark.parametrize(
    "line",
    [
        "import worker.no_such_module",
        "from worker.serving.ticket import no_such_name",
        "from shared import no_such_name",
    ],
)
def test_an_import_that_fails_inside_the_engine_is_our_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    error = refusal(monkeypatch, tmp_path, line)
    assert isinstance(error, InternalError)
    assert "a bug in mlx-gateway" in error.message
    assert "no_such" in error.message


@pytest.mark.parametrize("source", ["/no/such/folder", "org/none", "~no-such-person/model"])
def test_a_source_that_is_no_model_is_refused(source: str) -> None:
    with pytest.raises(ModelUnavailableError, match=source):
        build(source)


def test_a_source_that_is_no_model_is_refused_before_the_engine_is_imported() -> None:
    code = """
        import sys
        from shared.config import load_settings
        from shared.errors import ModelUnavailableError
        from shared.registry import ENGINE_NAMES, ModelSpec
        from worker.engines.registry import build_engine
        try:
            build_engine(ModelSpec(id="e", source=sys.argv[1]), load_settings(environ={}))
        except ModelUnavailableError as error:
            print(error.message)
        print(sorted(name for name in sys.modules if name.partition(".")[0] in ("mlx", "mlx_lm", "transformers")))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), "/no/such/folder"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["/no/such/folder: no such file or folder", "[]"]


def test_a_whole_model_folder_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ENGINES, {"mlx": _Entry("worker.engines.echo", "EchoEngine", SteppedEngine, _ENGINES["mlx"].check)}
    )
    engine = build(str(DEMO_MODEL))
    assert isinstance(engine, SteppedEngine)
    assert isinstance(engine.core, EchoEngine)
