"""A launchd agent: the property list, and how launchd is told of it.

The keys are those of launchd.plist(5). Written from Apple's manual and checked by `plistlib` and by the table below; it
has not been loaded on a Mac yet.
"""

from __future__ import annotations

import os
import plistlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.command.service.unit import Unit

_PREFIX: Final = "org.mlx-gateway"
_THROTTLE_S: Final = 10
_FILES: Final = 4096

# Of launchd.plist(5), as far as they are used here: what each must be.
KEYS: Final[Mapping[str, type]] = {
    "Label": str,
    "ProgramArguments": list,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "EnvironmentVariables": dict,
    "WorkingDirectory": str,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "SoftResourceLimits": dict,
}
_PROCESS_TYPES: Final = ("Standard", "Adaptive", "Interactive", "Background")


def label(unit: Unit) -> str:
    return f"{_PREFIX}.{unit.kind}"


def plist_path(unit: Unit, home: Path) -> Path:
    return home / "Library" / "LaunchAgents" / f"{label(unit)}.plist"


def render_plist(unit: Unit) -> bytes:
    """`Interactive`, for launchd throttles the processor and the disk of what it takes for background work."""
    return plistlib.dumps(
        {
            "Label": label(unit),
            "ProgramArguments": unit.words,
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": _THROTTLE_S,
            "ExitTimeOut": int(unit.stop_s) + 1,
            "ProcessType": "Interactive",
            "EnvironmentVariables": dict(unit.environment),
            "WorkingDirectory": str(unit.state_dir),
            "StandardOutPath": str(unit.boot_log),
            "StandardErrorPath": str(unit.boot_log),
            "SoftResourceLimits": {"NumberOfFiles": _FILES},
        }
    )


def faults_of(plist: Mapping[str, Any]) -> Iterator[str]:
    """What launchd would not take, or would take for something else."""
    for key, value in plist.items():
        if key not in KEYS:
            yield f"{key} is no key of ours"
        elif type(value) is not KEYS[key]:
            yield f"{key} is a {type(value).__name__}"
    for key in ("Label", "ProgramArguments"):
        if not plist.get(key):
            yield f"{key} is missing"
    if not os.path.isabs(plist.get("ProgramArguments", [""])[0]):
        yield "the program's path is not absolute"
    if plist.get("ProcessType") not in _PROCESS_TYPES:
        yield f"ProcessType {plist.get('ProcessType')!r}"
    if not all(isinstance(value, str) for value in plist.get("EnvironmentVariables", {}).values()):
        yield "an environment variable is no text"


def install_commands(unit: Unit, path: Path, user_id: int) -> list[list[str]]:
    domain = f"gui/{user_id}"
    return [["launchctl", "bootstrap", domain, str(path)], ["launchctl", "kickstart", f"{domain}/{label(unit)}"]]


def restart_commands(unit: Unit, user_id: int) -> list[list[str]]:
    return [["launchctl", "kickstart", "-k", f"gui/{user_id}/{label(unit)}"]]


def uninstall_commands(unit: Unit, user_id: int) -> list[list[str]]:
    return [["launchctl", "bootout", f"gui/{user_id}/{label(unit)}"]]


def status_command(unit: Unit, user_id: int) -> list[str]:
    return ["launchctl", "print", f"gui/{user_id}/{label(unit)}"]
