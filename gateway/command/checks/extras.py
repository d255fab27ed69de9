"""Extras that the models of this machine need beside mlx, which has a line of its own: there, or missing with the line
that installs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.command.checks.finding import Finding, fault, fine, remark
from shared.config import model_folders
from shared.extras import ENGINE_EXTRAS, EYES, install_line, is_extra_installed
from shared.registry import ModelSpec

_SHOWN: Final = 5
_SERVER: Final = "llama-server"  # serves GGUF models without the extra's wheel


def check_extras(
    models: Iterable[ModelSpec],
    *,
    has_extra: Callable[[str], bool] = is_extra_installed,
    has_program: Callable[[str], object] = shutil.which,
) -> Iterator[Finding]:
    """One line for each extra that one of the models needs. Reads their config.json, where it lies here."""
    needed: dict[str, list[str]] = {}
    for model in models:
        if extra := _extra_of(model):
            needed.setdefault(extra, []).append(model.id)
    for extra, names in sorted(needed.items()):
        if extra != "gguf" or not has_program(_SERVER):
            yield _finding(extra, names, is_there=has_extra(extra))


def _finding(extra: str, names: list[str], *, is_there: bool) -> Finding:
    subject, shown = f"extra {extra}", _listed(sorted({*names}))
    if is_there:
        return fine(subject, f"there, for {shown}")
    if extra == "vision":
        return remark(
            subject, f"missing: {shown} can read images with it, and text alone without: {install_line(extra)}"
        )
    return fault(subject, f"missing: without it nothing serves {shown}: {install_line(extra)}")


def _listed(names: list[str]) -> str:
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])


def _extra_of(model: ModelSpec) -> str:
    """Empty for none, and for that of mlx."""
    if model.engine != "mlx":
        return ENGINE_EXTRAS.get(model.engine, "")
    folder = _folder(model.source)
    config = _config(folder) if folder is not None else {}
    if folder is not None and not config and any(folder.glob("*.gguf")):
        return ENGINE_EXTRAS["gguf"]
    return "vision" if config.get("vision_config") and str(config.get("model_type")) in EYES else ""


def _folder(source: str) -> Path | None:
    """Where the model's files lie on this machine, as far as that is plain."""
    hubs, studios = model_folders()
    snapshots = [hub / f"models--{source.replace('/', '--')}" / "snapshots" for hub in hubs]
    places = [Path(source).expanduser(), *(each for folder in snapshots for each in sorted(folder.glob("*")))]
    return next((place for place in (*places, *(folder / source for folder in studios)) if place.is_dir()), None)


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        told = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
