"""Writes the bundle of a release for a Mac: `python -m deploy.macos dist/mlx_gateway-0.2.0-py3-none-any.whl [FOLDER]`.

`mlx-gateway.app` holds a Python that can be moved (uv's, which finds itself by its own path), the packages in it, and a
launcher that shows the item in the menu bar. The Python and its packages can be had for macOS alone, on macOS; the
layout around them is written and tested anywhere. It has not been run on a Mac yet, and is not signed: whoever gives
it to others signs and notarises it.
"""

from __future__ import annotations

import plistlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

NAME: Final = "mlx-gateway.app"
PYTHON: Final = "3.13"
EXTRAS: Final = ("menu", "mlx", "share")
_IDENTIFIER: Final = "dev.mlx-gateway.app"
_WHEEL: Final = re.compile(r"mlx_gateway-(\d[\w.]*)-py3-none-any\.whl$")

# The folder is found from the script's own path, so that the bundle may lie anywhere.
LAUNCHER: Final = """\
#!/bin/sh
here=$(cd "$(dirname "$0")/.." && pwd -P) || exit 1
export PATH="$here/Resources/python/bin:/opt/homebrew/bin:/usr/local/bin:$PATH"
exec "$here/Resources/python/bin/python3" -P -m gateway.command.cli "${@:-menu}"
"""


def info(release: str) -> dict[str, Any]:
    """Of `Info.plist`. `LSUIElement`: an item in the menu bar, and none in the Dock."""
    return {
        "CFBundleIdentifier": _IDENTIFIER,
        "CFBundleName": "mlx-gateway",
        "CFBundleDisplayName": "mlx-gateway",
        "CFBundleExecutable": "mlx-gateway",
        "CFBundlePackageType": "APPL",
        "CFBundleInfoDictionaryVersion": "6.0",
        "CFBundleShortVersionString": release,
        "CFBundleVersion": release,
        "LSMinimumSystemVersion": "14.0",
        "LSArchitecturePriority": ["arm64"],
        "LSUIElement": True,
        "NSHighResolutionCapable": True,
        "NSLocalNetworkUsageDescription": "Other Macs that joined this one are reached in the local network.",
        "NSHumanReadableCopyright": "MIT licence",
    }


def build(wheel: Path, folder: Path, install: Callable[[Path, Path], None]) -> Path:
    """The bundle, in place of one that was there. `install` puts a Python with the wheel into a folder that is not
    there yet. Raises `ValueError` for what is no wheel of ours."""
    found = _WHEEL.search(wheel.name)
    if found is None:
        raise ValueError(f"{wheel.name}: expected mlx_gateway-RELEASE-py3-none-any.whl")
    app = folder / NAME
    shutil.rmtree(app, ignore_errors=True)
    contents = app / "Contents"
    for each in ("MacOS", "Resources"):
        (contents / each).mkdir(parents=True)
    (contents / "Info.plist").write_bytes(plistlib.dumps(info(found[1])))
    (contents / "PkgInfo").write_text("APPL????")
    launcher = contents / "MacOS" / "mlx-gateway"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    install(wheel, contents / "Resources" / "python")
    return app


def install_python(wheel: Path, folder: Path) -> None:
    """With uv, on a Mac. Raises `CalledProcessError`."""
    there = folder.with_name("installed")
    subprocess.run(["uv", "python", "install", "--install-dir", str(there), PYTHON], check=True)
    next(there.glob("cpython-*")).rename(folder)
    shutil.rmtree(there)
    package = f"{wheel.resolve()}[{','.join(EXTRAS)}]"
    python = str(folder / "bin" / "python3")
    subprocess.run(["uv", "pip", "install", "--python", python, "--break-system-packages", package], check=True)


def main(arguments: list[str]) -> int:
    if sys.platform != "darwin":
        sys.stdout.write("no bundle: a Mac's app is built where macOS is\n")
        return 0
    wheel = Path(arguments[0])
    app = build(wheel, Path(arguments[1]) if len(arguments) > 1 else wheel.parent, install_python)
    sys.stdout.write(f"{app}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
