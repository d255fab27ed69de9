"""Wheels of this checkout under any release number, made without a build tool and without an index."""

from __future__ import annotations

import base64
import hashlib
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import REPOSITORY

_PACKAGES = ("gateway", "worker", "shared")


def make_wheel(folder: Path, release: str) -> Path:
    """It asks for nothing else: its environment has what it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"mlx_gateway-{release}-py3-none-any.whl"
    info = f"mlx_gateway-{release}.dist-info"
    texts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: mlx-gateway\nVersion: {release}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nmlx-gateway = gateway.command.entry:main\n",
    }
    records: list[str] = []
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in (*_sources(), *((name, text.encode()) for name, text in texts.items())):
            wheel.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{name},sha256={digest},{len(data)}")
        wheel.writestr(f"{info}/RECORD", "\n".join([*records, f"{info}/RECORD,,"]) + "\n")
    return path


def _sources() -> Iterator[tuple[str, bytes]]:
    for package in _PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(REPOSITORY)), path.read_bytes()


def make_environment(folder: Path) -> Path:
    """With pip, and with the packages of this one but mlx-gateway itself; its interpreter."""
    venv.create(folder, with_pip=True, symlinks=True)
    there = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (folder / there / "borrowed.pth").write_text(f"{Path(sys.prefix) / there}\n")
    return folder / "bin" / "python"
