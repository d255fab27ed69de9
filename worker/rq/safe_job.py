"""RQ's job and queue made safe: nothing that data in Redis names is ever imported, called or fetched.

RQ imports any dotted name found in a job (function, callbacks), calls methods of an unserialised instance, and
sends requests to URLs in a job's webhooks. Here one function is allowed, by a table, and a job is read (`ticket_of`)
before RQ makes anything of it.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import redis
from rq.exceptions import NoSuchJobError, TimeoutFormatError
from rq.job import JOB_ID_PATTERN, Job
from rq.queue import Queue

from shared import keys
from shared.errors import WireError
from shared.wire import JobSerializer
from worker.serving import ticket as jobs
from worker.serving.ticket import Ticket

log = logging.getLogger(__name__)

# What RQ raises on a hash that it did not write. It reads numbers, dates and JSON, and asserts.
_NOT_A_JOB = (NoSuchJobError, TimeoutFormatError, AssertionError, RecursionError, ValueError)
_ALLOWED: dict[str, Callable[..., Ticket]] = {keys.JOB_FUNCTION: jobs.run}
_CALLBACKS = (b"success_callback_name", b"failure_callback_name", b"stopped_callback_name")
_MAX_DATA_BYTES = 64 * 1024


def ticket_of(fields: Mapping[bytes, bytes]) -> Ticket:
    """What the job with this hash asks for, read without RQ's objects. Raises `WireError` for every job that a gateway
    would not have made."""
    for name in _CALLBACKS:
        if callback := fields.get(name):
            raise WireError(f"job callback {callback.decode(errors='replace')!r} is not allowed")
    if fields.get(b"webhooks"):
        raise WireError("job webhooks are not allowed")
    try:
        data = zlib.decompressobj().decompress(fields.get(b"data", b""), _MAX_DATA_BYTES)
        function_name, instance, arguments, named = JobSerializer.loads(data)
        function = _ALLOWED.get(function_name) if instance is None else None
        if function is None:
            raise WireError(f"job function {function_name!r} is not allowed")
        return function(*arguments, **named)
    except (zlib.error, orjson.JSONDecodeError, ValueError, TypeError) as error:
        raise WireError(f"not a job of ours: {error}") from error


class SafeJob(Job):  # type: ignore[misc]
    """A job whose function is looked up, and that has no callbacks, no instance and no webhooks."""

    @property
    def func(self) -> Callable[..., Ticket]:
        """Raises `WireError` for anything but the allowed function."""
        function = _ALLOWED.get(self.func_name)
        if function is None or self.instance is not None:
            raise WireError(f"job function {self.func_name!r} is not allowed")
        return function

    @property
    def success_callback(self) -> None:
        self._refuse_callback(self._success_callback_name)

    @property
    def failure_callback(self) -> None:
        self._refuse_callback(self._failure_callback_name)

    @property
    def stopped_callback(self) -> None:
        self._refuse_callback(self._stopped_callback_name)

    @staticmethod
    def _refuse_callback(name: str | None) -> None:
        if name:
            raise WireError(f"job callback {name!r} is not allowed")

    def send_webhooks(self, *_args: Any, **_kwargs: Any) -> None:
        """Never: the URLs come out of Redis."""


class SafeQueue(Queue):  # type: ignore[misc]
    job_class = SafeJob


def is_job_id(text: str) -> bool:
    """Whether RQ takes this for the id of a job; it fails at any other."""
    return JOB_ID_PATTERN.fullmatch(text) is not None


def read_job(client: redis.Redis, job_id: str, fields: Mapping[bytes, bytes]) -> SafeJob:
    """RQ's job of this hash; of one that RQ did not write, what can be read."""
    job = SafeJob(job_id, connection=client, serializer=JobSerializer)
    job.data = b""  # RQ writes no job without, not even that it failed
    try:
        job.restore(fields)
    except _NOT_A_JOB as error:
        log.error("job %s is not as RQ writes it: %r", job_id, error)  # noqa: TRY400 - no fault of ours
    job._dependency_ids = []  # a job of ours depends on no other
    return job
