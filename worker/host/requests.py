"""What a host is asked over Redis: by anyone to load a model, by a person to unload one or to leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from shared import wire
from shared.errors import WireError
from shared.keys import Names
from shared.seal import HostKeys, Purpose
from worker.host.supervision import ModelSupervisor

logger = logging.getLogger(__name__)

_LISTEN_S = 60.0
_AGAIN_S = 1.0


class Requests:
    """Of the host of this `word`. `supervisors` are its own, by model; `drain` has it leave."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        names: Names,
        keys: HostKeys,
        word: str,
        supervisors: Mapping[str, ModelSupervisor],
        *,
        drain: Callable[[], None],
    ) -> None:
        self._redis = client
        self._loads_channel = names.loads
        self._channel = names.host_channel(word)
        self._loads = keys.anyone.seal(Purpose.LOADS)
        self._orders = keys.own.seal(Purpose.ORDERS, word)
        self._word = word
        self._supervisors = supervisors
        self._drain = drain
        self._loads_more = True
        self._subscription: redis.asyncio.client.PubSub | None = None

    async def follow(self, stopping: asyncio.Event) -> None:
        """Until then, and until `hear_no_more` says so to whoever listens already."""
        while not stopping.is_set():
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(self._loads_channel, self._channel)
                    self._subscription = subscription
                    await self._listen(subscription, stopping)
            except (RedisError, OSError):
                await asyncio.sleep(_AGAIN_S)
            finally:
                self._subscription = None

    async def _listen(self, subscription: redis.asyncio.client.PubSub, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            message = await subscription.get_message(timeout=_LISTEN_S)
            if message is not None:
                self._told(message["channel"], message["data"])

    async def hear_no_more(self) -> None:
        """Redis is to say nothing more: who waits for what it says ends with its answer, where a cancellation may leave
        redis-py in the middle of a reply."""
        if self._subscription is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_AGAIN_S):
                    await self._subscription.unsubscribe()

    def load_no_more(self) -> None:
        """The host leaves."""
        self._loads_more = False

    def _told(self, channel: bytes, data: bytes) -> None:
        is_order = channel.decode(errors="replace") == self._channel
        seal = self._orders if is_order else self._loads
        try:
            value: Any = wire.decode(seal.open(data))
        except WireError as error:
            logger.warning("a request to load or unload a model was not understood: %s", error)
            return
        if is_order:
            self._ordered(value)
            return
        for key in value if isinstance(value, list) and self._loads_more else ():
            own = self._asked_model(key)
            if own in self._supervisors:
                self._supervisors[own].ask()

    def _asked_model(self, key: object) -> str:
        """The id here of a model that any host may load, or that this one of several shall: [model, host]. Empty for
        what is for others."""
        match key:
            case str(name) | [str(name), self._word]:
                return name.removesuffix(f"@{self._word}")
        return ""

    def _ordered(self, value: Any) -> None:
        match value:
            case ["drain"]:
                self._drain()
            case ["unload", str(model), bool(is_forced)] if model in self._supervisors:
                supervisor = self._supervisors[model]
                if supervisor.spec.is_pinned and not is_forced:
                    logger.warning("%s is pinned: it stays", model)
                    return
                logger.info("%s is unloaded: somebody said so", model)
                supervisor.unload()
            case _:
                logger.warning("an order was not understood: %.200r", value)
