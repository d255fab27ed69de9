"""Silero's detector of speech, for the console's voice: files of two packages of npm's, 14 MB, which a person fetches
once (`mlx-gateway detector`) and a gateway serves from its state folder. They are as their makers published them: each
package is known by its digest. The model and the runtime are under the MIT licence, vad-web is under ISC."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Package:
    """`name`, `version` and `sha512` (base64, of all of it) as npm has them; `files` are those in its `dist`."""

    name: str
    version: str
    sha512: str
    files: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"https://registry.npmjs.org/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"

    @property
    def packed(self) -> str:
        """What `npm pack` calls it."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES: Final = (
    Package(
        name="@ricky0123/vad-web",
        version="0.0.31",
        sha512="ePVq8TvB21sdHSxVMZOEIf9JVa7MAYpaIaNXeGgsPOiMCN8xbPCdF2LS5aYj7VRR3ZxzutedgV9ZplV65IA1Fg==",
        files=("silero_vad_v6.onnx",),
    ),
    Package(
        name="onnxruntime-web",
        version="1.23.2",
        sha512="T09JUtMn+CZLk3mFwqiH0lgQf+4S7+oYHHtk6uhaYAAJI95bTcKi5bOOZYwORXfS/RLZCjDDEXGWIuOCAFlEjg==",
        files=("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    ),
)
NAMES: Final = frozenset(name for package in PACKAGES for name in package.files)
COMMAND: Final = "mlx-gateway detector"


def folder_of(state_dir: Path) -> Path:
    """Of these versions."""
    return state_dir / "silero" / "-".join(package.version for package in PACKAGES)


def read_file(state_dir: Path, name: str) -> bytes | None:
    """One of `NAMES`; none where they were not fetched."""
    path = folder_of(state_dir) / name
    return path.read_bytes() if name in NAMES and path.is_file() else None


def is_there(state_dir: Path) -> bool:
    return all((folder_of(state_dir) / name).is_file() for name in NAMES)


def unpack(package: Package, data: bytes) -> dict[str, bytes]:
    """Its files by name. Raises `ConfigError` when `data` is not that package."""
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != package.sha512:
        raise ConfigError(f"what came is not {package.name} {package.version}: its digest is another")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return {name: _member(archive, f"package/dist/{name}") for name in package.files}


def _member(archive: tarfile.TarFile, path: str) -> bytes:
    file = archive.extractfile(path)
    assert file is not None  # what the digest stands for has it
    return file.read()


def write_files(state_dir: Path, files: Mapping[str, bytes]) -> Path:
    """All of them or none. The folder. Raises `OSError`."""
    folder = folder_of(state_dir)
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder.parent) as making:
        whole = Path(making) / "whole"
        whole.mkdir()
        for name, body in files.items():
            (whole / name).write_bytes(body)
        shutil.rmtree(folder, ignore_errors=True)  # what somebody has removed a part of
        whole.rename(folder)
    return folder
