"""A systemd unit, of a user (with lingering, so that it outlives the last login) or of the system, and how systemd is
told of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.command.service.unit import Unit

_FILES: Final = 65536
# No MemoryDenyWriteExecute: grammars and MLX compile what they run.
_HARDENING: Final = (
    "NoNewPrivileges=yes",
    "PrivateTmp=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "RemoveIPC=yes",
    "UMask=0077",
)
# What a user's own manager may not set.
_OF_THE_SYSTEM: Final = (
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectClock=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
)


def unit_name(unit: Unit) -> str:
    return f"mlx-gateway-{unit.kind}.service"


def unit_path(unit: Unit, home: Path, *, is_system: bool) -> Path:
    folder = Path("/etc/systemd/system") if is_system else home / ".config" / "systemd" / "user"
    return folder / unit_name(unit)


def environment_path(unit: Unit) -> Path:
    """Beside the state, so that who reads units does not read secrets."""
    return unit.state_dir / f"service-{unit.kind}.env"


def render_environment(environment: Mapping[str, str]) -> str:
    return "".join(f"{name}={_quoted(value)}\n" for name, value in sorted(environment.items()))


def render_unit(unit: Unit, *, is_system: bool, user: str = "") -> str:
    hardening = _HARDENING if is_system else [line for line in _HARDENING if line not in _OF_THE_SYSTEM]
    after = "network-online.target" if is_system else "default.target"
    lines = [
        "[Unit]",
        f"Description=mlx-gateway ({unit.kind})",
        *(["Wants=network-online.target", f"After={after}"] if is_system else []),
        "StartLimitIntervalSec=300",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=notify",
        *([f"User={user}"] if is_system and user else []),
        f"ExecStart={' '.join(map(_quoted, unit.words))}",
        f"EnvironmentFile={environment_path(unit)}",
        f"WorkingDirectory={unit.state_dir}",
        f"ReadWritePaths={' '.join(map(_quoted, _written_folders(unit)))}",
        f"RuntimeDirectory=mlx-gateway-{unit.kind}",  # for the socket of its Redis, which commands find there
        "RuntimeDirectoryMode=0700",
        "Restart=on-failure",
        "RestartSec=3",
        "TimeoutStartSec=infinity",
        f"TimeoutStopSec={int(unit.stop_s) + 1}",
        "KillMode=mixed",
        f"LimitNOFILE={_FILES}",
        *hardening,
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if is_system else 'default.target'}",
    ]
    return "\n".join(lines) + "\n"


def _written_folders(unit: Unit) -> list[str]:
    """The settings among them: the console and `mlx-gateway tier` change them."""
    words = unit.arguments
    settings = [after for word, after in itertools.pairwise(words) if word == "--config"]
    return [str(unit.state_dir), *settings]


def _quoted(text: str) -> str:
    """As unit files and environment files read it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or not text or any(c.isspace() for c in text) else text


def install_commands(unit: Unit, *, is_system: bool, user: str) -> list[list[str]]:
    linger = [] if is_system else [["loginctl", "enable-linger", user]]
    control = _control(is_system)
    return [*linger, [*control, "daemon-reload"], [*control, "enable", "--now", unit_name(unit)]]


def restart_commands(unit: Unit, *, is_system: bool) -> list[list[str]]:
    return [[*_control(is_system), "restart", unit_name(unit)]]


def uninstall_commands(unit: Unit, *, is_system: bool) -> list[list[str]]:
    return [[*_control(is_system), "disable", "--now", unit_name(unit)]]


def status_command(unit: Unit, *, is_system: bool) -> list[str]:
    return [*_control(is_system), "--no-pager", "status", unit_name(unit)]


def _control(is_system: bool) -> list[str]:
    return ["systemctl"] if is_system else ["systemctl", "--user"]
