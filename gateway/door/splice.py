"""Two connections made one: what comes on either goes out on the other."""

from __future__ import annotations

import asyncio
import contextlib

_CHUNK_BYTES = 128 * 1024

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def splice(here: Ends, there: Ends) -> None:
    """Until either end goes. Closes neither."""
    ways = [
        asyncio.ensure_future(_pass_on(here[0], there[1])),
        asyncio.ensure_future(_pass_on(there[0], here[1])),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
