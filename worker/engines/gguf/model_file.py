"""The GGUF files behind a model's name, found on this machine and checked without loading anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.config import model_folders
from shared.errors import ModelUnavailableError
from worker.engines.gguf.metadata import GgufFile, read_file
from worker.model_folder import find_model

_PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
_PROJECTOR = "mmproj"
NO_PROJECTOR = "none"
# llama.cpp's `pooling_type`: mean, first, last; and its architectures that have no other use.
_POOLS, _RANKS = (1, 2, 3), 4
_ENCODERS = ("bert", "modern-bert", "neo-bert", "eurobert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2",
             "jina-bert-v3", "gemma-embedding")  # fmt: skip
DEFAULT_CONTEXT_TOKENS = 4096  # of a file that does not say what its model was trained for


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """`path` is the file to load, the first of its parts; `values` its metadata. `token_bytes` is what the key-value
    cache takes of each token in 16 bits, as far as the metadata say."""

    path: Path
    values: dict[str, Any]
    architecture: str
    context_tokens: int
    weight_bytes: int
    token_bytes: int


def check_source(source: str) -> None:
    """Raises `ModelUnavailableError` with the reason when `source` cannot be a GGUF model of this machine. A folder
    with several models is left to `find_gguf`, which knows the options."""
    path = Path(source).expanduser()
    if path.is_file():
        read_file(path)
    elif not (path.is_dir() and _firsts(path)):
        _firsts_of(find_model(source, *model_folders()), source)


def find_gguf(source: str, name: str = "") -> Path:
    """The file behind what the person named: a file, a folder of parts, or an id of the Hugging Face cache or of LM
    Studio. `name` is the file's where there are several. Raises `ModelUnavailableError`."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    firsts = _firsts_of(path if path.is_dir() else find_model(source, *model_folders()), source)
    named = [first for first in firsts if name in (first.name, str(first))] if name else firsts
    if len(named) == 1:
        return named[0]
    there = ", ".join(first.name for first in firsts)
    if name:
        raise ModelUnavailableError(f"{source} has no file {name!r}; there are: {there}")
    raise ModelUnavailableError(f'{source} holds several models: choose one with "options": {{"file": …}} of {there}')


def _firsts_of(folder: Path, source: str) -> list[Path]:
    firsts = _firsts(folder)
    if not firsts:
        raise ModelUnavailableError(f"{source} holds no .gguf file")
    return firsts


def _firsts(folder: Path) -> list[Path]:
    """The files of a folder that can be loaded: of those in parts the first, of images' projectors none."""
    found = []
    for path in sorted(folder.glob("**/*.gguf")):
        part = _PART.match(path.name)
        if _PROJECTOR not in path.name.lower() and (part is None or int(part["number"]) == 1):
            found.append(path)
    return found


def find_projector(path: Path, wanted: str = "") -> Path | None:
    """That of the model's images: what was set, else the one beside the model's file, if there is one. Raises
    `ModelUnavailableError`."""
    if wanted == NO_PROJECTOR:
        return None
    if wanted:
        found = Path(wanted).expanduser()
        if not found.is_file():
            raise ModelUnavailableError(f"there is no file {wanted!r} (`mmproj` of gguf_config.json)")
        return found
    beside = [each for each in sorted(path.parent.glob("*.gguf")) if _PROJECTOR in each.name.lower()]
    return beside[0] if beside else None


def makes_vectors(path: Path) -> bool:
    """Whether it is an embedding model: its header says how states are pooled, or it is an encoder. Raises
    `ModelUnavailableError` for one that ranks pairs, which is another kind of work."""
    header = read_file(parts_of(path)[0])
    architecture = str(header.values.get("general.architecture", ""))
    pooling = header.number("pooling_type")
    if pooling == _RANKS:
        raise ModelUnavailableError(f"{path.name} ranks pairs of texts, which is not done over llama.cpp here")
    return pooling in _POOLS or architecture in _ENCODERS


def parts_of(path: Path) -> Sequence[Path]:
    """All files of the model. Raises `ModelUnavailableError` when one is missing."""
    part = _PART.match(path.name)
    if part is None:
        return (path,)
    count = int(part["count"])
    parts = [path.with_name(f"{part['stem']}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]
    missing = [each.name for each in parts if not each.is_file()]
    if missing:
        raise ModelUnavailableError(f"{path.parent} lacks {len(missing)} of {count} parts, e.g. {missing[0]}")
    return parts


def read_model(path: Path) -> GgufModel:
    """Every part is checked. Raises `ModelUnavailableError`."""
    files = [read_file(part) for part in parts_of(path)]
    first = files[0]
    architecture = str(first.values.get("general.architecture", ""))
    if not architecture:
        raise ModelUnavailableError(f"{path} does not say its architecture")
    return GgufModel(
        path=path,
        values=first.values,
        architecture=architecture,
        context_tokens=first.number("context_length", DEFAULT_CONTEXT_TOKENS),
        weight_bytes=sum(file.path.stat().st_size for file in files),
        token_bytes=_token_bytes(first),
    )


def _token_bytes(file: GgufFile) -> int:
    """Of the key-value cache, all layers together, at two bytes a value."""
    layers, width = file.number("block_count"), file.number("embedding_length")
    heads = file.numbers("attention.head_count", layers)
    kv_heads = file.numbers("attention.head_count_kv", layers) or heads
    head = width // max(1, max(heads, default=1))
    key, value = file.number("attention.key_length", head), file.number("attention.value_length", head)
    return 2 * sum(kv_heads) * (key + value)
