"""A door is found in the network without a name, on the loopback network of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from gateway.door.bonjour import FoundDoor, announced, find_door
from shared.errors import ConfigError

LOOPBACK = ["127.0.0.1"]


def _has_multicast() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            group = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        except OSError:
            return False
    return True


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not _has_multicast(), reason="no multicast on this machine")]


@pytest.fixture
def studio() -> Iterator[None]:
    """A Mac called studio whose door is on port 8082."""
    is_told, over = threading.Event(), threading.Event()

    async def tell() -> None:
        async with announced("studio", 8082, ["127.0.0.1"], LOOPBACK) as can:
            assert can
            is_told.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(tell()), daemon=True)
    thread.start()
    assert is_told.wait(20)
    yield
    over.set()
    thread.join(20)


@pytest.mark.usefixtures("studio")
def test_the_door_that_is_the_right_one_is_found() -> None:
    assert find_door(lambda door: door.port == 8082, wait_s=10, interfaces=LOOPBACK) == FoundDoor(
        "studio", "127.0.0.1", 8082
    )


@pytest.mark.usefixtures("studio")
def test_another_one_is_named_and_not_taken() -> None:
    with pytest.raises(ConfigError, match=r"not found in this network \(others are: studio"):
        find_door(lambda door: False, wait_s=2, interfaces=LOOPBACK)
