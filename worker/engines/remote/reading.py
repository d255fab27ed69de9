"""A server's response, read piece by piece, whatever it holds: an answer, an error in its place, or nonsense.

What it is shows its first line and not its content type, which servers get wrong. Server-sent events:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from shared.events import Progress
from shared.http_client import MOST_ANSWER_BYTES, AskError, Response
from worker.engines.remote.anthropic import parse_anthropic
from worker.engines.remote.pieces import Piece, parse_chat, parse_ollama, reading
from worker.engines.remote.words import translate

_DONE = b"[DONE]"
_FIELD = re.compile(rb"(data|event|id|retry)?:")
_MUTE_S = 1800.0  # for how long a server may give signs of life and say nothing
_AFTER_S = 5.0  # behind the word that ends an answer, for its counts
_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], Piece]] = {
    "chat": parse_chat,
    "anthropic": parse_anthropic,
    "ollama": parse_ollama,
}
_NOTHING = Piece()


async def pieces_of(response: Response, shape: str, who: str) -> AsyncGenerator[Piece | Progress, None]:
    """`who` names the server to the client. Where an answer has ended, whatever is wrong behind it is nobody's loss.
    Raises `AskError`, and the error that the response holds."""
    has_ended = False
    async with aclosing(_Reader(response, shape, who).pieces()) as pieces:
        while True:
            try:
                async with asyncio.timeout(_AFTER_S if has_ended else None):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except (TimeoutError, AskError):
                if not has_ended:
                    raise
                return
            has_ended = has_ended or (isinstance(piece, Piece) and bool(piece.finish))
            yield piece


class _Reader:
    def __init__(self, response: Response, shape: str, who: str) -> None:
        self._lines = response.lines()
        self._type = response.headers.get("content-type", "").lower()
        self._shape = shape
        self._who = who
        self._done_tokens = 0

    async def pieces(self) -> AsyncGenerator[Piece | Progress, None]:
        """What says something. Raises `AskError` where nothing does for too long."""
        clock = asyncio.get_running_loop().time
        said_s = clock()
        async for piece in self._all():
            if self._says(piece):
                said_s = clock()
                yield piece
            elif clock() - said_s > _MUTE_S:
                raise AskError(f"for {_MUTE_S:.0f} s there were signs of life alone", is_silent=True)

    def _says(self, piece: Piece | Progress) -> bool:
        if isinstance(piece, Piece):
            return piece != _NOTHING
        is_more = piece.done_tokens > self._done_tokens
        self._done_tokens = piece.done_tokens
        return is_more

    async def _all(self) -> AsyncIterator[Piece | Progress]:
        first = await self._first()
        if self._shape == "ollama":
            async for line in self._with(first):
                yield self._piece(line) if line.strip() else _NOTHING
        elif self._is_one_value(first):
            yield self._piece(await self._rest(first))
        else:
            async for piece in self._events(first):
                yield piece

    async def _first(self) -> bytes:
        async for line in self._lines:
            if line := line.removeprefix(b"\xef\xbb\xbf"):
                return line
        return b""

    async def _with(self, first: bytes) -> AsyncIterator[bytes]:
        yield first
        async for line in self._lines:
            yield line

    def _is_one_value(self, first: bytes) -> bool:
        """It does not stream, or tells an error."""
        return first.lstrip().startswith(b"{") or ("event-stream" not in self._type and not _FIELD.match(first))

    async def _rest(self, first: bytes) -> bytes:
        data = bytearray(first)
        async for line in self._lines:
            data += b"\n" + line
            if len(data) > MOST_ANSWER_BYTES:
                raise AskError(f"the answer is larger than {MOST_ANSWER_BYTES >> 20} MB", has_answered=True)
        return bytes(data)

    async def _events(self, first: bytes) -> AsyncIterator[Piece | Progress]:
        name = b""
        async for line in self._with(first):
            field, _, value = line.partition(b":")
            value = value.strip()
            if not line:
                name = b""
            elif field == b"event":
                name = value
            elif field == b"data" and value == _DONE:
                return
            elif field == b"data" and value:
                yield self._piece(value, name)
            elif not field:
                yield _progress(value) or _NOTHING

    def _piece(self, data: bytes, name: bytes = b"") -> Piece:
        """Raises the error that it tells, `AskError` for what cannot be read."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise AskError(f"what it says is no JSON: {error}", has_answered=True) from error
        if not isinstance(value, dict):
            raise AskError("what it says is no object", has_answered=True)
        if self._tells_error(value, name):
            raise translate(self._who, 500, value if value.get("error") else {"error": value})
        with reading():
            return _PARSERS[self._shape](value)

    def _tells_error(self, value: Mapping[str, Any], name: bytes) -> bool:
        """In one of the ways that servers have of saying so within an answer that began well."""
        if value.get("error") or name == b"error" or "error" in (value.get("object"), value.get("type")):
            return True
        return (
            self._shape == "chat"
            and "choices" not in value
            and any(isinstance(value.get(key), str) for key in ("message", "detail"))
        )


def _progress(words: bytes) -> Progress | None:
    """mlx_lm.server's comments while it reads a prompt: `: keepalive 2048/4096`."""
    name, _, counts = words.partition(b" ")
    done, _, total = counts.partition(b"/")
    if name != b"keepalive" or not (done.isdigit() and total.isdigit()) or max(len(done), len(total)) > 9:
        return None
    return Progress(phase="prefill", done_tokens=int(done), total_tokens=int(total))
