"""Which engine a model spec names, imported only when it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from shared.config import Settings
from shared.errors import ConfigError, InternalError, ModelUnavailableError
from shared.extras import ENGINE_EXTRAS, install_line
from shared.options import read_options
from shared.registry import EngineName, ModelSpec
from worker.engines.base import Engine
from worker.engines.gguf.model_file import check_source as check_gguf
from worker.engines.stepped import SteppedEngine
from worker.engines.streamed import StreamedEngine
from worker.engines.transcription.folder import check_source as check_whisper
from worker.model_folder import check_source

log = logging.getLogger(__name__)

_OUR_PACKAGES = ("worker", "shared")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A core or a source, by module and name, and what makes an engine of it. `check` refuses a model's source before
    the engine is imported, which may take seconds."""

    module: str
    name: str
    carrier: Callable[[Any], Engine]
    check: Callable[[str], None] | None = None


def _as_it_is(engine: Engine) -> Engine:
    """It carries itself."""
    return engine


_ENGINES: dict[EngineName, _Entry] = {
    "mlx": _Entry("worker.engines.mlx.engine", "MlxEngine", SteppedEngine, check_source),
    "gguf": _Entry("worker.engines.gguf.engine", "build_gguf", _as_it_is, check_gguf),
    "remote": _Entry("worker.engines.remote.source", "RemoteSource", StreamedEngine),
    "embeddings": _Entry("worker.engines.embeddings.engine", "EmbeddingsEngine", _as_it_is, check_source),
    "transcription": _Entry("worker.engines.transcription.engine", "TranscriptionEngine", _as_it_is, check_whisper),
    "speech": _Entry("worker.engines.speech.engine", "SpeechEngine", _as_it_is),
    "echo": _Entry("worker.engines.echo", "EchoEngine", SteppedEngine),
    "echo-streamed": _Entry("worker.engines.echo_streamed", "EchoSource", StreamedEngine),
}


def build_engine(spec: ModelSpec, settings: Settings) -> Engine:
    """The engine of `spec`, nothing loaded yet. Raises `ConfigError` for an unknown name or option,
    `ModelUnavailableError` when there is no such model or the engine's packages are not installed, and `InternalError`
    when the engine's own code cannot be imported."""
    if spec.engine not in _ENGINES:
        raise ConfigError(f"unknown engine {spec.engine!r}: expected one of {', '.join(_ENGINES)}")
    entry = _ENGINES[spec.engine]
    read_options(spec.engine, spec.options)
    if entry.check is not None:
        entry.check(spec.source)
    try:
        factory = getattr(import_module(entry.module), entry.name)
    except ImportError as error:
        raise _import_failed(spec.engine, error) from error
    return entry.carrier(factory(spec, settings))


def _import_failed(engine: str, error: ImportError) -> ModelUnavailableError | InternalError:
    """Whose fault it is: `error.name` is the module that is missing, or the one that lacks what was asked of it."""
    if (error.name or "").partition(".")[0] in _OUR_PACKAGES:
        log.error("engine %s cannot be imported", engine, exc_info=error)
        return InternalError(f"engine {engine} is broken, which is a bug in mlx-gateway: {error}")
    if isinstance(error, ModuleNotFoundError):
        line = install_line(ENGINE_EXTRAS.get(engine, "mlx"))
        return ModelUnavailableError(f"engine {engine} is not installed: {error}; install it: {line}")
    return ModelUnavailableError(f"engine {engine} does not work with what is installed: {error}")
