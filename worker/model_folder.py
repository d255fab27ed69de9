"""The folder behind a model's name: found on this machine, and checked without loading anything of it."""

from __future__ import annotations

import codecs
import contextlib
import json
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shared.config import model_folders
from shared.errors import ModelUnavailableError
from shared.registry import EngineName

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "tokenizer_config.json")
_HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 * 1024 * 1024
_LAST_DATE_S = 2**32  # a file may have any date; one beyond this is no date of a model


def check_source(source: str) -> None:
    """Raises `ModelUnavailableError` with the reason when `source` cannot be a model of this machine."""
    try:
        check_folder(find_model(source, *model_folders()))
    except (OSError, RuntimeError) as error:  # RuntimeError: a ~name that is nobody's
        raise ModelUnavailableError(f"{source} cannot be read: {error}") from error


def engine_of(source: str, engine: EngineName) -> EngineName:
    """The engine for a source of which nobody said more than that: GGUF files are not MLX's."""
    return "gguf" if engine == "mlx" and _is_gguf(source) else engine


def _is_gguf(source: str) -> bool:
    with contextlib.suppress(ModelUnavailableError, OSError, RuntimeError):
        path = Path(source).expanduser()
        if path.suffix == ".gguf":
            return True
        folder = find_model(source, *model_folders())
        return not (folder / "config.json").is_file() and any(folder.glob("*.gguf"))
    return False


def made_at_s(source: str) -> int:
    """Unix time at which the model came to be what it is (its config.json's date); 0 for what has no files here."""
    made_s = 0
    with contextlib.suppress(ModelUnavailableError, OSError, RuntimeError):
        path = Path(source).expanduser()
        file = path if path.is_file() else find_model(source, *model_folders()) / "config.json"
        made_s = int(file.stat().st_mtime)
    return made_s if 0 < made_s < _LAST_DATE_S else 0


def find_model(source: str, hub_caches: Sequence[Path], studio_folders: Sequence[Path]) -> Path:
    """The folder behind what the person named: a path, a cached Hugging Face id, or an LM Studio publisher/model.

    Raises `ModelUnavailableError` saying where was looked.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix == ".gguf":
            raise ModelUnavailableError(
                f'{source} is a GGUF file; the mlx engine needs an MLX model folder: serve it with "engine": "gguf"'
            )
        raise ModelUnavailableError(f"{source} is a file; name the folder that holds config.json and the weights")
    if source.startswith(("/", "~", ".")):
        raise ModelUnavailableError(f"{source}: no such file or folder")
    looked: list[str] = []
    for cache in hub_caches:
        repository = cache / f"models--{source.replace('/', '--')}"
        looked.append(str(repository))
        if repository.is_dir():
            return _snapshot(source, repository)
    for folder in studio_folders:
        looked.append(str(folder / source))
        if (folder / source).is_dir():
            return folder / source
    raise ModelUnavailableError(
        f"model {source!r} is not on this machine (nothing is downloaded automatically); looked in: {', '.join(looked)}"
    )


def _snapshot(source: str, repository: Path) -> Path:
    """The snapshot that `main` names, else the only one there is."""
    reference = repository / "refs" / "main"
    snapshots = repository / "snapshots"
    if reference.is_file():
        snapshot = snapshots / reference.read_text().strip()
        if snapshot.is_dir():
            return snapshot
        raise ModelUnavailableError(f"{source}: the download in {repository} is incomplete: {snapshot} is missing")
    found = sorted(snapshots.iterdir()) if snapshots.is_dir() else []
    if len(found) == 1:
        return found[0]
    raise ModelUnavailableError(f"{source}: {repository} holds {len(found)} snapshots and no refs/main to choose by")


def check_folder(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a folder that has everything a model needs. Reads headers only, no weights."""
    if not (folder / "config.json").is_file():
        if any(folder.glob("*.gguf")):
            raise ModelUnavailableError(
                f"{folder} holds GGUF files only; the mlx engine needs safetensors and config.json"
            )
        raise ModelUnavailableError(f"{folder} has no config.json, so it is not a model folder")
    config = parse_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ModelUnavailableError(f"{folder}/config.json does not say its model_type")
    if config.get("model_file"):
        raise ModelUnavailableError(f"{folder} brings its own model code ({config['model_file']}), which is never run")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelUnavailableError(f"{folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)})")
    _check_weights(folder)
    return config


def parse_json(path: Path) -> dict[str, Any]:
    """A byte order mark at its beginning does not matter. Raises `ModelUnavailableError`."""
    try:
        parsed = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(f"{path} cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelUnavailableError(f"{path} is not a JSON object")
    return parsed


def _check_weights(folder: Path) -> None:
    present = {path.name for path in folder.glob("model*.safetensors")}
    if not present:
        raise ModelUnavailableError(f"{folder} has no weights (model*.safetensors)")
    wanted = _indexed(folder / "model.safetensors.index.json")
    missing = sorted(wanted - present)
    # An index of which no file is here was left behind by weights that have been merged: nobody reads it.
    if missing and wanted & present:
        raise ModelUnavailableError(f"{folder} lacks {len(missing)} of {len(wanted)} weight files, e.g. {missing[0]}")
    for name in sorted(present):
        _check_safetensors(folder / name)


def _indexed(index: Path) -> set[str]:
    """The weight files that an index lists; none where it says nothing that can be read."""
    weight_map: Any = None
    with contextlib.suppress(ModelUnavailableError):
        weight_map = parse_json(index).get("weight_map")
    return set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()


@contextlib.contextmanager
def without_byte_order_marks(folder: Path) -> Iterator[Path]:
    """The folder itself, or, where JSON files in it begin with a byte order mark (editors of Windows write one, readers
    of models refuse it), one that links to its files and holds copies of those without it."""
    marked = [path for path in folder.glob("*.json") if path.is_file() and _begins_with_mark(path)]
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mlxgw-model-") as name:
        clean = Path(name)
        for path in folder.iterdir():
            if path in marked:
                (clean / path.name).write_bytes(path.read_bytes().removeprefix(codecs.BOM_UTF8))
            else:
                (clean / path.name).symlink_to(path.absolute())
        yield clean


def _begins_with_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def _check_safetensors(path: Path) -> None:
    """A truncated file would otherwise be noticed only when its last tensor is read, or never."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER_LENGTH_BYTES)
        length = struct.unpack("<Q", head)[0] if len(head) == _HEADER_LENGTH_BYTES else _MAX_HEADER_BYTES + 1
        if length > min(size, _MAX_HEADER_BYTES):
            raise ModelUnavailableError(f"{path} is not a safetensors file, or is cut short ({size} bytes)")
        try:
            header = json.loads(file.read(length))
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelUnavailableError(f"{path} has a damaged header: {error}") from error
    expected = _HEADER_LENGTH_BYTES + length + end
    if size < expected:
        raise ModelUnavailableError(f"{path} is cut short: {size} of {expected} bytes; fetch it again")
