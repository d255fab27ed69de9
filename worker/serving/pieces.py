"""Tells gateways that look what is kept of prompts here, and drops what they name."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import redis

from shared import keys
from shared.keys import Names
from shared.pieces import LookAtPieces, Pieces
from shared.seal import HostKey, Purpose
from shared.wire import encode
from worker.engines.base import Engine, Keeper

log = logging.getLogger(__name__)

_PATIENCE_S = 20.0  # for an engine within a long step
_MOST_WAITING = 8


class PieceTeller:
    """On a thread of its own: neither the engine nor who hears other messages waits for Redis."""

    def __init__(self, client: redis.Redis, names: Names, key: HostKey, engine: Engine, *, worker: str) -> None:
        self._client = client
        self._names = names
        self._seal = key.seal(Purpose.PIECES, worker)
        self._engine = engine
        self._worker = worker
        self._free = threading.Semaphore(_MOST_WAITING)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="pieces")

    def hear(self, look: LookAtPieces) -> None:
        """Who asks too often is not answered, and asks again."""
        if self._free.acquire(blocking=False):
            self._threads.submit(self._tell, look).add_done_callback(lambda _: self._free.release())

    def _tell(self, look: LookAtPieces) -> None:
        try:
            told = self._seal.close(encode(self._look(look)))
            self._client.set(self._names.pieces(self._worker, look.gateway), told, ex=keys.PIECES_TTL_S)
        except TimeoutError:
            log.warning("what is kept of prompts cannot be told: the engine is at work")
        except redis.RedisError as error:
            log.warning("what is kept of prompts cannot be told: %s", error)

    def _look(self, look: LookAtPieces) -> Pieces:
        """Raises `TimeoutError`."""
        seen = None
        if isinstance(self._engine, Keeper):
            seen = self._engine.look_at_pieces(look.drop).result(_PATIENCE_S)
        if seen is None:
            return Pieces(number=look.number, is_known=False)
        if look.drop:
            log.info("%d pieces of what is kept of prompts are dropped: an administrator said so", seen.dropped)
        return Pieces(number=look.number, pieces=seen.outline.pieces, more=seen.outline.more, dropped=seen.dropped)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
