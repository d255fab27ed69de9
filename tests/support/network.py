"""Machines of one network on this machine: namespaces with an address each, on a bridge. Needs Linux, root and `ip`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NETWORK = "198.18.77"  # RFC 2544: for tests of networks


def can_have_networks() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"mlxgw-{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return False
    subprocess.run(["ip", "netns", "del", name], check=True)
    return True


@dataclass(frozen=True)
class Machine:
    """A namespace. `link` is this machine's end of its cable."""

    name: str
    address: str
    link: str

    def words(self, command: Sequence[str]) -> list[str]:
        """What runs the command there."""
        return ["ip", "netns", "exec", self.name, *command]

    def plug(self, *, is_in: bool) -> None:
        """Pull its cable, or put it in again."""
        _ip("link", "set", self.link, "up" if is_in else "down")


@contextlib.contextmanager
def network(*names: str) -> Iterator[list[Machine]]:
    """Machines that reach each other; this process reaches them, too."""
    tag = secrets.token_hex(2)
    bridge = f"br-{tag}"
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{NETWORK}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        machines = []
        for number, name in enumerate(names, 1):
            machine = Machine(f"{name}-{tag}", f"{NETWORK}.{number}", f"ve-{tag}-{number}")
            _ip("netns", "add", machine.name)
            stack.callback(_ip, "netns", "del", machine.name)
            _ip("link", "add", machine.link, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
            _ip("link", "set", machine.link, "master", bridge, "up")
            for words in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
                _ip("-n", machine.name, *words)
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            machines.append(machine)
        yield machines


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
