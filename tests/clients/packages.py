"""Python packages of others, each set installed once into an environment of its own in a folder that git ignores."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY

_INSTALL_S = 400.0


def interpreter(name: str, *packages: str) -> Path:
    """One that has the packages. Skips the test, and says so, where they cannot be fetched."""
    folder = REPOSITORY / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    python, done = folder / "bin" / "python", folder / "installed"
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may want to install at once
        if not done.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            command = [python, "-m", "pip", "install", "--quiet", *packages]
            said = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
            if said.returncode:
                pytest.skip(f"the packages cannot be fetched: {' '.join(packages)}: {said.stderr[-300:]}")
            done.touch()
    return python
