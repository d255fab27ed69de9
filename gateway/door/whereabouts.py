"""Under which name and address other Macs of the network find this one."""

from __future__ import annotations

import socket
import subprocess
import sys

_NAME_S = 2.0


def local_name() -> str:
    """By which other Macs of the network find this one."""
    name = socket.gethostname()
    if sys.platform == "darwin":
        try:
            asked = ["scutil", "--get", "LocalHostName"]
            name = subprocess.run(asked, capture_output=True, text=True, timeout=_NAME_S, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            name = socket.gethostname()
    return f"{name.partition('.')[0]}.local"


def own_address() -> str:
    """The address of this Mac in its network; empty without one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""
