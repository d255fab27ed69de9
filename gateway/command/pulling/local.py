"""Models that lie on this machine: in the hub's cache and in LM Studio's folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gateway.command.ends import not_there
from shared.config import model_folders

_PREFIX: Final = "models--"
_UNFINISHED: Final = ".incomplete"

Place = Literal["hub", "lmstudio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """`is_whole`: nothing of it is known to be missing."""

    id: str
    place: Place
    path: Path
    kind: str
    size_bytes: int
    is_whole: bool = True


def find_local() -> list[LocalModel]:
    hubs, studios = model_folders()
    found = [model for folder in hubs for model in _in_hub(folder)]
    return found + [model for folder in studios for model in _in_studio(folder)]


def _in_hub(cache: Path) -> Iterator[LocalModel]:
    for folder in sorted(cache.glob(f"{_PREFIX}*")):
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        names = {path.name for path in folder.glob("snapshots/*/**/*")}
        yield LocalModel(
            id=folder.name.removeprefix(_PREFIX).replace("--", "/"),
            place="hub",
            path=folder,
            kind=_kind(names),
            size_bytes=sum(path.stat().st_size for path in files),
            is_whole=bool(names) and not any(path.name.endswith(_UNFINISHED) for path in files),
        )


def _in_studio(folder: Path) -> Iterator[LocalModel]:
    for model in sorted(path for path in folder.glob("*/*") if path.is_dir()):
        files = [path for path in model.rglob("*") if path.is_file()]
        yield LocalModel(
            id=str(model.relative_to(folder)),
            place="lmstudio",
            path=model,
            kind=_kind({path.name for path in files}),
            size_bytes=sum(path.stat().st_size for path in files),
        )


def _kind(names: set[str]) -> str:
    if any(name.endswith(".gguf") for name in names):
        return "gguf"
    return "mlx" if "config.json" in names and any(name.endswith(".safetensors") for name in names) else "other"


def lines(models: list[LocalModel]) -> list[str]:
    width = max((len(model.id) for model in models), default=0)
    return [
        f"{model.id:<{width}}  {model.kind:<5}  {model.size_bytes / 1e9:7.2f} GB  {model.place}"
        + ("" if model.is_whole else "  unfinished: pull it again")
        for model in models
    ]


def named(name: str) -> LocalModel:
    """Raises `ConfigError`."""
    models = find_local()
    found = [model for model in models if model.id == name]
    if not found:
        there = ", ".join(model.id for model in models) or "none"
        raise not_there(f"no model {name!r} lies on this machine; there are: {there}")
    return found[0]


def remove(model: LocalModel) -> None:
    shutil.rmtree(model.path)
