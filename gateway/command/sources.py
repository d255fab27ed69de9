"""Whether what somebody names with `--model` is there: asked before anything is started for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.command.ends import not_there
from shared.config import model_folders

_OF_FILES: Final = ("mlx", "gguf", "embeddings", "transcription", "speech")
_PATH_SIGNS: Final = ("/", "~", ".")


def check_sources(sources: Sequence[str], engine: str) -> None:
    """Raises `ConfigError` (not_there) for the first that no engine could load: a path where nothing is, an id of
    which nothing is on this machine. Whether its files are a model is the worker's to say."""
    if engine in _OF_FILES:
        for source in sources:
            _check(source)


def _check(source: str) -> None:
    if _is_file(source):
        return
    if source.startswith(_PATH_SIGNS):
        raise not_there(f"--model {source}: no such file or folder")
    looked = [str(place) for place in _places(source)]
    raise not_there(
        f"--model {source}: nothing of it is on this machine (looked in {', '.join(looked)}); "
        f"`mlx-gateway pull {source}` fetches it, `mlx-gateway models --local` lists what is here"
    )


def _is_file(source: str) -> bool:
    try:
        return Path(source).expanduser().exists() or any(place.exists() for place in _places(source))
    except (OSError, RuntimeError):  # a name that is too long, a ~name that is nobody's
        return False


def _places(source: str) -> list[Path]:
    hubs, studios = model_folders()
    return [*(hub / f"models--{source.replace('/', '--')}" for hub in hubs), *(folder / source for folder in studios)]
