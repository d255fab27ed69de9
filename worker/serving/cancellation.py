"""Hears what gateways say to this worker beside its lists: that a request is not wanted any more, wherever it is here,
that another gateway wants it, too, that a host leaves whose conversations are to go on here, or that somebody looks at
what is kept."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import redis

from shared.errors import WireError
from shared.fits import misfit
from shared.pieces import LookAtPieces
from shared.request import End, Join, TakeOver
from shared.seal import Seal
from shared.wire import decode

log = logging.getLogger(__name__)

_WAIT_S = 60.0  # who ends this is heard at once
_END_S = 1.0  # of a thread that hears of its end from Redis, which may hang
_RETRY_S = 0.2


class CancelListener:
    """Subscribes to the worker's channel and to `others` (channel -> what to do with a message). What is said while the
    connection is away is caught by the heartbeat, which reads the state of every job, and by the `ended:` key,
    which is read with the body."""

    def __init__(
        self,
        client: redis.Redis,
        channel: str,
        seal: Seal,
        cancel: Callable[[End], None],
        join: Callable[[Join], None] = lambda join: None,
        *,
        take_over: Callable[[TakeOver], None] = lambda what: None,
        look: Callable[[LookAtPieces], None] = lambda look: None,
        others: Mapping[str, Callable[[bytes], None]],
    ) -> None:
        self._client = client
        self._channel = channel
        self._seal = seal
        self._cancel = cancel
        self._join = join
        self._take_over = take_over
        self._look = look
        self._others = others
        self._stopping = threading.Event()
        self._is_away = False
        self._subscription: redis.client.PubSub | None = None
        self._thread = threading.Thread(target=self._run, name="cancels", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Nothing is heard any more. The thread waits for what Redis says: that it is to say nothing more ends that."""
        self._stopping.set()
        if self._subscription is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._subscription.unsubscribe()  # type: ignore[no-untyped-call]

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except redis.RedisError as error:
                if not self._is_away:
                    log.warning("cancellations cannot be heard: %s", error)
                self._is_away = True
                self._stopping.wait(_RETRY_S)

    def _listen(self) -> None:
        with self._client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(self._channel, *self._others)
            self._is_away = False
            self._subscription = subscription
            try:
                self._hear_all(subscription)
            finally:
                self._subscription = None

    def _hear_all(self, subscription: redis.client.PubSub) -> None:
        while not self._stopping.is_set():
            message = subscription.get_message(timeout=_WAIT_S)
            if message is not None and not self._stopping.is_set():
                hear = self._others.get(message["channel"].decode(), self._hear)
                hear(message["data"])

    def _hear(self, message: bytes) -> None:
        try:
            value: Any = decode(self._seal.open(message))
        except WireError as error:
            log.error("a message to this worker is dropped: %s", error)  # noqa: TRY400 - the text says it all
            return
        if isinstance(value, End) and not misfit(value):
            self._cancel(value)
        elif isinstance(value, Join) and not misfit(value):
            self._join(value)
        elif isinstance(value, TakeOver) and not misfit(value):
            self._take_over(value)
        elif isinstance(value, LookAtPieces) and not misfit(value):
            self._look(value)
        else:
            log.error("a message to this worker is of a kind that it does not know: %s", type(value).__name__)
