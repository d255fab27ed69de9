"""Which engine a GGUF file is for: one that answers, or one that makes vectors. Its header says so."""

from __future__ import annotations

from shared.config import Settings, SettingsFile
from shared.gguf_config import FILE
from shared.registry import ModelSpec
from worker.engines.base import Engine
from worker.engines.gguf.embedder import GgufEmbedder
from worker.engines.gguf.model_file import find_gguf, makes_vectors
from worker.engines.gguf.options import parse_options
from worker.engines.gguf.source import GgufSource
from worker.engines.streamed import StreamedEngine


def build_gguf(spec: ModelSpec, settings: Settings) -> Engine:
    """Raises `ModelUnavailableError`, `ConfigError`."""
    options = parse_options(SettingsFile(settings, FILE).load(), spec.id, spec.options)
    if makes_vectors(find_gguf(spec.source, options.file)):
        return GgufEmbedder(spec, settings)
    return StreamedEngine(GgufSource(spec, settings))
