"""The line that installs what is missing, for the way in which this installation was made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

# By extra, a module that comes with it: who installs one more keeps the others.
_SIGNS: Final[Mapping[str, str]] = {
    "mlx": "mlx_lm",
    "gguf": "xllamacpp",
    "menu": "rumps",
    "otel": "opentelemetry.sdk",
    "share": "cryptography",
    "voice": "av",
}


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def installed_extras(is_there: Callable[[str], bool] = is_installed) -> tuple[str, ...]:
    return tuple(sorted(name for name, module in _SIGNS.items() if is_there(module)))


def install_line(
    extra: str,
    *,
    prefix: str = sys.prefix,
    program: str = sys.executable,
    is_there: Callable[[str], bool] = is_installed,
) -> str:
    """`prefix` is where the environment lies: a tool of uv's or of pipx's, or any other."""
    extras = sorted({extra, *installed_extras(is_there)})
    package = f"'mlx-gateway[{','.join(extras)}]'"
    folders = Path(prefix).parts
    if "tools" in folders and "uv" in folders:
        return f"uv tool install --reinstall {package}"
    if "pipx" in folders:
        return f"pipx install --force {package}"
    return f"{program} -m pip install {package}"
