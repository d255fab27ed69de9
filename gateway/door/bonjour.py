"""Found without a name: the door tells the network where it is, and a joiner asks who is there (Bonjour, RFC 6763).

With the `zeroconf` package, which comes with what certificates are made with; without it a joiner gives a name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from shared.errors import ConfigError
from shared.extras import install_line
from shared.hosts import is_loopback_address

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf
    from zeroconf.asyncio import AsyncZeroconf

logger = logging.getLogger(__name__)

TYPE = "_mlx-gateway._tcp.local."
_ASK_MS = 2000
_MOST_LETTERS = 63


@dataclass(frozen=True, slots=True)
class FoundDoor:
    """`name` is the Mac's, for a person."""

    name: str
    address: str
    port: int


@contextlib.asynccontextmanager
async def announced(
    name: str, port: int, addresses: Sequence[str], interfaces: Sequence[str] = ()
) -> AsyncIterator[bool]:
    """While the block runs the network can find the door of the Mac of this name. Whether it can: it needs `zeroconf`
    and a network, and the door does without. Without `addresses` it is told all of this machine's; `interfaces` are
    those it is told through, all where it is empty."""
    try:
        from zeroconf import InterfaceChoice, IPVersion, ServiceInfo
        from zeroconf.asyncio import AsyncZeroconf
    except ImportError:
        yield False
        return
    label, there = name[:_MOST_LETTERS], list(addresses) or _own_addresses()
    info = ServiceInfo(TYPE, f"{label}.{TYPE}", port=port, parsed_addresses=there, server=f"{label}.local.")
    try:
        bonjour = AsyncZeroconf(interfaces=list(interfaces) or InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except OSError as error:
        logger.info("the network is not told of the door: %s", error)
        yield False
        return
    try:
        yield await _is_registered(bonjour, info)
    finally:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await bonjour.async_unregister_all_services()
        await bonjour.async_close()


def _own_addresses() -> list[str]:
    """Of this machine in all its networks, two Macs on one cable among them."""
    from ifaddr import get_adapters

    found = [str(address.ip) for adapter in get_adapters() for address in adapter.ips if address.is_IPv4]
    return [address for address in found if not is_loopback_address(address)]


async def _is_registered(bonjour: AsyncZeroconf, info: ServiceInfo) -> bool:
    from zeroconf import Error

    try:
        await (await bonjour.async_register_service(info, allow_name_change=True))
    except (Error, OSError, TimeoutError) as error:
        logger.info("the network is not told of the door: %s", error)
        return False
    return True


def find_door(is_it: Callable[[FoundDoor], bool], *, wait_s: float, interfaces: Sequence[str] = ()) -> FoundDoor:
    """The first door in the network that is the right one. Raises `ConfigError`."""
    try:
        from zeroconf import InterfaceChoice, IPVersion, ServiceBrowser, ServiceStateChange, Zeroconf
    except ImportError as error:
        raise ConfigError(
            f"give the sharing Mac's name before the code, or install what finds it: {install_line('share')}"
        ) from error
    names: SimpleQueue[str] = SimpleQueue()

    def note(*, name: str, state_change: ServiceStateChange, **_: object) -> None:
        if state_change is ServiceStateChange.Added:
            names.put(name)

    try:
        bonjour = Zeroconf(interfaces=list(interfaces) or InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except OSError as error:
        raise ConfigError(
            f"the network cannot be asked ({error}): give the sharing Mac's name before the code"
        ) from error
    with contextlib.closing(bonjour):
        ServiceBrowser(bonjour, TYPE, handlers=[note])
        others = []
        with contextlib.suppress(Empty):
            while True:
                name = names.get(timeout=wait_s)
                found = _asked(bonjour, name)
                if found is not None and is_it(found):
                    return found
                others.append(name.removesuffix(f".{TYPE}"))
    seen = f" (others are: {', '.join(others)})" if others else ""
    raise ConfigError(f"the Mac that made this code is not found in this network{seen}: give its name before the code")


def _asked(bonjour: Zeroconf, name: str) -> FoundDoor | None:
    info = bonjour.get_service_info(TYPE, name, timeout=_ASK_MS)
    addresses = info.parsed_addresses() if info is not None else []
    if info is None or not addresses or info.port is None:
        return None
    return FoundDoor(name.removesuffix(f".{TYPE}"), addresses[0], info.port)
