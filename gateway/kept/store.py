"""Answers in Redis, each under its tenant's name and sealed, for a day at most.

They are soft state like all of it: when Redis comes back empty, who asks for one is told that it is not there. No more
than a number of them are kept, each of bounded size, so that they never fill the memory that requests need; the oldest
go first.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio
from redis.exceptions import RedisError

from shared.errors import AnswerNotFoundError, BrokerUnavailableError, WireError
from shared.exact import dump_bytes, load_bytes
from shared.keys import Names
from shared.seal import Keyring, Purpose, Seal
from shared.wire import WIRE_VERSION

KEPT_S: Final = 24 * 3600
MAX_BYTES: Final = 1_000_000  # of one answer with its conversation
MAX_KEPT: Final = 256  # of one tenant
_PATIENCE_S: Final = 5.0
_ID: Final = re.compile(r"[\w-]{1,100}")
_VERSION: Final = bytes([WIRE_VERSION])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An answer as its client got it, and the items of the conversation that it answers, from the beginning."""

    answer: Mapping[str, Any]
    items: Sequence[Any]


class AnswerStore:
    def __init__(self, broker: redis.asyncio.Redis, names: Names, keyring: Keyring) -> None:
        self._broker = broker
        self._names = names
        self._keyring = keyring

    async def put(self, tenant: str, kept: Kept) -> bool:
        """Whether it is kept: not one that is too large. Raises `BrokerUnavailableError`."""
        answer_id = str(kept.answer["id"])
        data = dump_bytes([kept.answer, kept.items])
        if len(data) > MAX_BYTES:
            return False
        message = self._seal(tenant, answer_id).close(_VERSION + data)
        order = self._names.kept_order(tenant)
        async with asking():
            await self._broker.set(self._names.kept(tenant, answer_id), message, ex=KEPT_S)
            count = await self._broker.lpush(order, answer_id)
            await self._broker.expire(order, KEPT_S)
            if count > MAX_KEPT:
                await self._forget(tenant, order)
        return True

    async def _forget(self, tenant: str, order: str) -> None:
        oldest = await self._broker.rpop(order)
        if isinstance(oldest, bytes):
            await self._broker.delete(self._names.kept(tenant, oldest.decode(errors="replace")))

    async def get(self, tenant: str, answer_id: str) -> Kept:
        """Raises `AnswerNotFoundError` and `BrokerUnavailableError`."""
        if _ID.fullmatch(answer_id) is None:
            raise _missing(answer_id)
        async with asking():
            message = await self._broker.get(self._names.kept(tenant, answer_id))
        if not isinstance(message, bytes):
            raise _missing(answer_id)
        try:
            return self._opened(tenant, answer_id, message)
        except WireError as error:
            raise _missing(answer_id) from error

    def _opened(self, tenant: str, answer_id: str, message: bytes) -> Kept:
        """Raises `WireError`."""
        answer, items = load_bytes(self._seal(tenant, answer_id).open(message)[1:])
        return Kept(answer=answer, items=items)

    async def latest(self, tenant: str) -> list[Kept]:
        """All that are kept, the latest first. Raises `BrokerUnavailableError`."""
        async with asking():
            ids = [_text(name) for name in await self._broker.lrange(self._names.kept_order(tenant), 0, -1)]
            messages = await self._broker.mget([self._names.kept(tenant, name) for name in ids]) if ids else []
        found = []
        for answer_id, message in zip(ids, messages, strict=True):
            if isinstance(message, bytes):
                with contextlib.suppress(WireError):
                    found.append(self._opened(tenant, answer_id, message))
        return found

    async def change(self, tenant: str, kept: Kept, *, is_renewed: bool = False) -> bool:
        """Put it in the place of the one with its id, if that is still there, for as long as that or, renewed, for a
        day; whether it is kept: not one that is too large. Raises `AnswerNotFoundError`, `BrokerUnavailableError`."""
        answer_id = str(kept.answer["id"])
        data = dump_bytes([kept.answer, kept.items])
        if len(data) > MAX_BYTES:
            return False
        message = self._seal(tenant, answer_id).close(_VERSION + data)
        async with asking():
            key, lasts_s = self._names.kept(tenant, answer_id), KEPT_S if is_renewed else None
            is_there = await self._broker.set(key, message, xx=True, ex=lasts_s, keepttl=not is_renewed)
        if not is_there:
            raise _missing(answer_id)
        return True

    async def delete(self, tenant: str, answer_id: str) -> None:
        """Raises `AnswerNotFoundError` and `BrokerUnavailableError`."""
        async with asking():
            is_gone = _ID.fullmatch(answer_id) and await self._broker.delete(self._names.kept(tenant, answer_id))
        if not is_gone:
            raise _missing(answer_id)

    def _seal(self, tenant: str, answer_id: str) -> Seal:
        return self._keyring.gateways.seal(Purpose.KEPT, f"{tenant}/{answer_id}")


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _missing(answer_id: str) -> AnswerNotFoundError:
    return AnswerNotFoundError(
        f"there is no stored answer {answer_id[:100]!r}: it was not stored, was deleted, or is over a day old"
    )


@contextlib.asynccontextmanager
async def asking() -> AsyncIterator[None]:
    """What goes wrong with Redis in the block, or takes too long, is a `BrokerUnavailableError`."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise BrokerUnavailableError("stored answers cannot be reached now", retry_after_s=1) from error
