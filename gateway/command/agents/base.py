"""What every agent is told, and what it is started with. Nothing of a person's own settings is read or written: flags,
variables, and files of ours in a folder of ours."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

KEY_VARIABLE: Final = "MLX_GATEWAY_API_KEY"
NO_KEY: Final = "local"  # agents refuse to start without one

_MOST_OUTPUT_TOKENS: Final = 32_000
_OUTPUT_SHARE: Final = 4  # an answer may take this part of a window, so that there is room to work in


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModels:
    """Model ids. `main` has a window of `context_tokens` (0: unknown); `tiers` holds the tiers of Claude's names that
    the settings send to another model."""

    main: str
    context_tokens: int = 0
    tiers: Mapping[str, str] = field(default_factory=dict)
    reads_images: bool = False
    reasons: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where an agent finds the gateway (`url` without /v1; `key` may be empty) and what it serves. `folder` is ours."""

    url: str
    key: str
    models: ServedModels
    folder: Path

    @property
    def output_tokens(self) -> int:
        """How much the agent may ask for at once; 0 where the window is unknown."""
        return min(_MOST_OUTPUT_TOKENS, self.models.context_tokens // _OUTPUT_SHARE)

    def write(self, name: str, content: bytes) -> Path:
        """A file of ours for the agent to read; the same one each time, so that a session can be resumed."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / name
        path.write_bytes(content)
        return path

    def write_json(self, name: str, value: Any) -> Path:
        return self.write(name, orjson.dumps(value, option=orjson.OPT_INDENT_2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What an agent is started with: `arguments` before a person's own, `environment` over theirs, less `removed`."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()

    def environment_in(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in environment.items() if name not in self.removed} | dict(self.environment)

    def script(self, program: str) -> str:
        """The same for a shell: variables, and where there are arguments a function of the program's name."""
        lines = [f"unset {' '.join(self.removed)}"] if self.removed else []
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]
        if self.arguments:
            lines.append(f'{program}() {{ command {shlex.join((program, *self.arguments))} "$@"; }}')
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """`program` is its name on the PATH, `install` the command that brings it. `prepare` raises `ConfigError` where
    it cannot work with the model. One that `asks_tiers` asks for models by Claude's tiers."""

    program: str
    install: str
    prepare: Callable[[Setting], Start]
    asks_tiers: bool = False
