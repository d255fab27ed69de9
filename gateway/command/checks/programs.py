"""Programs of others: clients, and what can compute beside MLX. None of them is needed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from gateway.command.agents.registry import AGENTS
from gateway.command.checks.finding import Finding, fine, remark

_ASK_S: Final = 20.0
_LLAMA: Final = "llama-server"
_WHEEL: Final = "xllamacpp"


def check_programs() -> Iterator[Finding]:
    for name, agent in AGENTS.items():
        found = shutil.which(agent.program)
        if found is None:
            yield remark(name, f"not here; to use it: {agent.install}")
        else:
            yield fine(name, f"{_version(found)} (`mlx-gateway launch {name}`)")
    yield _llama()


def _llama() -> Finding:
    """What serves GGUF models."""
    server = shutil.which(_LLAMA)
    if server is not None:
        return fine(_LLAMA, _version(server))
    with contextlib.suppress(PackageNotFoundError):
        return fine(_LLAMA, f"not here; the server of the {_WHEEL} wheel serves GGUF models ({version(_WHEEL)})")
    return remark(_LLAMA, f"not here; GGUF models need it: brew install llama.cpp, or the {_WHEEL} wheel")


def _version(program: str) -> str:
    """The first line that it says of itself."""
    try:
        said = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "its version is unknown"
    lines = (said.stdout.strip() or said.stderr.strip()).splitlines()
    return next((line.strip() for line in lines if any(c.isdigit() for c in line)), "its version is unknown")
