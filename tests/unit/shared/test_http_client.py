"""A connection ends with its request, also where the server has not read what it was sent."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from shared import http_client
from shared.http_client import Address, AskError, ask


def test_what_a_server_does_not_read_is_not_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    writers: list[asyncio.StreamWriter] = []
    connect = http_client._connect

    async def connected(*where: Any) -> Any:
        reader, writer = await connect(*where)
        writers.append(writer)
        return reader, writer

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:  # never accepts
            address = Address(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
            with pytest.raises(AskError, match="silent"):
                async with ask(address, "/v1", b"x" * (1 << 24), silence_s=0.05):
                    raise AssertionError("it said something")
            await asyncio.sleep(0)
            (writer,) = writers
            assert writer.get_extra_info("socket").fileno() == -1
            assert writer.transport.get_write_buffer_size() == 0

    monkeypatch.setattr(http_client, "_connect", connected)
    asyncio.run(main())
