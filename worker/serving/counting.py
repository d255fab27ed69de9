"""Tokenizer-only work: counting the tokens of a prompt, beside generation and never behind it.

Gateways push calls on a list per model; any worker of the model answers with one frame entry whose only event is
`Started` (its usage holds the count) or `Failed`. A call that dies with its worker is not repeated: whoever asked
times out and may ask again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import redis

from shared.clock import RedisClock
from shared.errors import GatewayError, InternalError, InvalidRequestError, WireError, WorkerLostError
from shared.events import Event, Failed, Started, Usage
from shared.keys import Names
from shared.readable import readable_events, unread_by
from shared.request import Envelope, GenerateRequest
from shared.seal import HostKey
from shared.wire import FrameEntry, decode, decode_envelope
from worker.serving.bodies import check_envelope
from worker.serving.publisher import Publisher
from worker.serving.ticket import Ticket

log = logging.getLogger(__name__)

_THREADS = 8
_BATCH = 32
_WAIT_S = 0.5
_RETRY_S = 0.5


class CallServer:
    """Pops and answers calls until stopped. `count` may be called from several threads at once."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        publisher: Publisher,
        count: Callable[[GenerateRequest], int | None],
        *,
        model: str,
        worker: str,
        clock: RedisClock,
        key: HostKey,
    ) -> None:
        self._client = client
        self._publisher = publisher
        self._count = count
        self._list = names.calls(model)
        self._worker = worker
        self._clock = clock
        self._key = key
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="count")
        self._thread = threading.Thread(target=self._run, name="calls", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more; calls that wait are answered with a retryable error."""
        self._stopping.set()

    def join(self) -> None:
        """Every call that was taken is answered once this returns (after `stop`)."""
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        is_away = False
        while not self._stopping.is_set():
            try:
                calls = self._pop()
            except redis.RedisError as error:
                if not is_away:
                    log.warning("calls cannot be read: %s", error)
                is_away = True
                self._stopping.wait(_RETRY_S)
                continue
            is_away = False
            for call in calls:
                self._pool.submit(self._answer, call)

    def _pop(self) -> list[bytes]:
        """Wait for one call and take what has come with it."""
        first = cast(tuple[bytes, bytes] | None, self._client.blpop([self._list], timeout=cast(int, _WAIT_S)))
        if first is None:
            return []
        more = cast(list[bytes] | None, self._client.lpop(self._list, _BATCH)) or []
        return [first[1], *more]

    def _answer(self, call: bytes) -> None:
        try:
            signature, body = _split(call)
            envelope = decode_envelope(body)
        except WireError as error:
            log.error("a call that nobody can be told about: %s", error)  # noqa: TRY400 - the text says it all
            return
        try:
            self._publish(envelope, self._event(envelope, signature, body))
        except (WireError, ValueError):
            log.exception("the error of request %s cannot be encoded", envelope.request.id)
            self._publish(envelope, Failed(code=InternalError.code, message="an error whose text cannot be told"))

    def _publish(self, envelope: Envelope, event: Event) -> None:
        if unread := unread_by(envelope.codes):
            [event] = readable_events([event], unread)
        entry = FrameEntry(
            request_id=envelope.request.id, attempt=envelope.attempt, seq=0, token_ids=(), events=(event,)
        )
        self._publisher.publish(envelope.gateway, [entry])

    def _event(self, envelope: Envelope, signature: str, body: bytes) -> Event:
        ticket = Ticket(envelope.request.id, envelope.attempt, signature)
        if self._stopping.is_set():
            return Failed.of(WorkerLostError("the worker is stopping", worker=self._worker))
        try:
            check_envelope(envelope, ticket, body, self._key, self._clock.now_s())
            return Started(usage=Usage(input_tokens=self._counted(envelope.request)), worker=self._worker)
        except GatewayError as error:
            return Failed.of(error)
        except BaseException as error:  # any bug in counting, or a panic in native code: whoever asked is told
            log.exception("the tokens of request %s could not be counted", envelope.request.id)
            return Failed.of(InternalError(f"the tokens could not be counted: {type(error).__name__}"))

    def _counted(self, request: GenerateRequest) -> int:
        tokens = self._count(request)
        if tokens is None:
            raise InvalidRequestError(f"the tokens of prompts for {request.model} cannot be counted")
        return tokens


def _split(call: bytes) -> tuple[str, bytes]:
    value: Any = decode(call)
    match value:
        case [str(signature), bytes(body)]:
            return signature, body
    raise WireError("a call is [signature, envelope]")
