"""The line that installs what is missing, for the way in which this installation was made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
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
    "vision": "mlx_vlm",
    "voice": "av",
}

# With which an engine's packages come, where that is not "mlx".
ENGINE_EXTRAS: Final[Mapping[str, str]] = {"gguf": "gguf", "transcription": "voice", "speech": "voice"}
# Of a config.json, each `model_type` whose images are read with "vision": the families of `worker/engines/mlx/eyes`.
EYES: Final = frozenset(
    {"gemma3", "lfm2-vl", "mistral3", "pixtral", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"}
    | {"qwen3_5", "qwen3_5_moe"}
)


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def installed_extras(is_there: Callable[[str], bool] = is_installed) -> tuple[str, ...]:
    return tuple(sorted(name for name, module in _SIGNS.items() if is_there(module)))


def is_extra_installed(extra: str) -> bool:
    return is_installed(_SIGNS[extra])


def archive_url() -> str:
    """The wheel or archive that this was installed from by its address; empty for one by its name, and for sources.

    Source: https://packaging.python.org/en/latest/specifications/direct-url/.
    """
    try:
        told = json.loads(distribution("mlx-gateway").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return ""
    return str(told.get("url", "")) if "archive_info" in told else ""


def install_line(
    extra: str,
    *,
    prefix: str = sys.prefix,
    program: str = sys.executable,
    is_there: Callable[[str], bool] = is_installed,
    find_archive: Callable[[], str] = archive_url,
) -> str:
    """`prefix` is where the environment lies: a tool of uv's or of pipx's, which are told where the package is from, or
    any other, where pip goes on with what is there."""
    extras = sorted({extra, *installed_extras(is_there)})
    package, archive = f"mlx-gateway[{','.join(extras)}]", find_archive()
    whole = f"'{package} @ {archive}'" if archive else f"'{package}'"
    folders = Path(prefix).parts
    if "tools" in folders and "uv" in folders:
        return f"uv tool install --reinstall {whole}"
    if "pipx" in folders:
        return f"pipx install --force {whole}"
    return f"{program} -m pip install '{package}'"
