"""The command that starts llama.cpp's server: its own program, or ours that runs it from the xllamacpp wheel."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shared.errors import ModelUnavailableError
from shared.extras import install_line
from worker.engines.gguf.options import GgufOptions
from worker.engines.gguf.window import Window

PROGRAM = "llama-server"
WHEEL = "wheel"
_PACKAGE = "xllamacpp"
_MISSING = (
    "there is no llama-server on the PATH and no xllamacpp wheel: "
    f"`{install_line('gguf')}` or `brew install llama.cpp` installs one"
)
_PING_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How the server is started, up to its flags. `is_wheel` says that it takes the flags of our own program."""

    command: tuple[str, ...]
    is_wheel: bool


def find_program(binary: str) -> Program:
    """What was set, else llama-server, else the wheel. Raises `ModelUnavailableError`, with what installs one."""
    found = shutil.which(binary or PROGRAM) if binary != WHEEL else None
    if found:
        return Program(command=(found,), is_wheel=False)
    if binary not in ("", WHEEL):
        raise ModelUnavailableError(f"there is no program {binary!r} (`binary` of gguf_config.json)")
    if find_spec(_PACKAGE) is None:
        raise ModelUnavailableError(_MISSING)
    return Program(command=(sys.executable, "-m", "worker.engines.gguf.wheel_server"), is_wheel=True)


def flags(
    model: Path,
    *,
    port: int,
    window: Window,
    name: str,
    saves: Path | None,
    projector: Path | None,
    options: GgufOptions,
    is_wheel: bool,
) -> Sequence[str]:
    """Bound to loopback, with nothing beside what is used: no web page, no way to change its settings, nothing fetched.
    What a person sets comes last, so that it counts. The key is in the environment, where `ps` does not show it."""
    given = ["-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--alias", name]
    given += ["-c", str(window.total_tokens), "-np", str(window.slots), "--slots", "--metrics"]
    given += ["--sse-ping-interval", str(_PING_S), "--cors-origins", "localhost"]
    # Prompts are rendered here: the model's own template, which its engine may refuse, is never shown to it.
    given += ["--chat-template", "chatml"]
    if saves is not None:
        given += ["--slot-save-path", f"{saves}/"]
    if projector is not None:
        given += ["--mmproj", str(projector)]
    if options.draft:
        given += ["-md", str(Path(options.draft).expanduser())]
    if not is_wheel:
        given += ["--no-ui", "--offline", "--no-context-shift", "--cache-prompt", "--cache-ram", "0"]
    return [*given, *options.default_args]


def embedding_flags(
    model: Path, *, port: int, window: Window, name: str, options: GgufOptions, is_wheel: bool
) -> Sequence[str]:
    """As `flags`. A text is computed in one pass, so that a pass has room for the longest."""
    given = ["-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--alias", name, "--embedding"]
    given += ["-c", str(window.total_tokens), "-np", str(window.slots), "--metrics", "--cors-origins", "localhost"]
    given += ["-b", str(window.context_tokens), "-ub", str(window.context_tokens)]
    if not is_wheel:
        given += ["--no-ui", "--offline"]
    return [*given, *options.default_args]
