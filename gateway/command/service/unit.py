"""What a service is, whoever keeps it: a program, its words, its environment, and how long it may take to stop."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from gateway.command.ends import failed

Kind = Literal["stack", "gateway", "host"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_COMMANDS: Final[Mapping[Kind, str]] = {"stack": "up", "gateway": "gateway", "host": "host"}
_LOGS: Final[Mapping[Kind, str]] = {"stack": "up", "gateway": "gateway", "host": "host"}
# Over what running requests get to finish: `up` waits eight seconds more for its parts, and they for theirs.
_STOP_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """`program` is the stable name under which the command is installed, never a path inside of an environment that an
    upgrade replaces. `environment` may hold secrets: whoever writes it lets its owner alone read it."""

    kind: Kind
    program: Path
    arguments: tuple[str, ...]
    state_dir: Path
    stop_s: float
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        return [str(self.program), _COMMANDS[self.kind], *self.arguments]

    @property
    def log(self) -> Path:
        """Where it writes itself, and sets aside what has grown."""
        return self.state_dir / "logs" / f"{_LOGS[self.kind]}.log"

    @property
    def boot_log(self) -> Path:
        """For what it says before it can write a log, and what it shows a person: a few lines at each start."""
        return self.state_dir / "logs" / "service.log"


def build_unit(
    kind: Kind, *, arguments: Sequence[str], state_dir: Path, drain_s: float, environment: Mapping[str, str]
) -> Unit:
    """Raises `ConfigError` (failed) when the command is not installed where others find it."""
    unit = Unit(
        kind=kind,
        program=find_program(),
        arguments=("--state", str(state_dir), *arguments),
        state_dir=state_dir,
        stop_s=drain_s + _STOP_S,
    )
    own = {"MLX_GATEWAY_LOG_FILE": str(unit.log), "HOME": str(Path.home()), "PATH": _path(unit.program)}
    return Unit(
        kind=unit.kind,
        program=unit.program,
        arguments=unit.arguments,
        state_dir=unit.state_dir,
        stop_s=unit.stop_s,
        environment={**environment, **own},
    )


def find_program() -> Path:
    """The name on the PATH; else the one beside this Python."""
    found = shutil.which("mlx-gateway")
    beside = Path(sys.executable).with_name("mlx-gateway")
    if found is None and not beside.exists():
        raise failed("the command mlx-gateway is not on the PATH: install it with `uv tool install mlx-gateway`")
    return Path(found).absolute() if found is not None else beside


def _path(program: Path) -> str:
    """Where Redis and the command's neighbours are found: service managers give nearly none."""
    folders = (str(program.parent), "/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
    return ":".join(dict.fromkeys(folders))
