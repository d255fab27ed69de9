"""Which workers can read what they would be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.dispatch.facts import Refused
from shared import wire
from shared.errors import ModelUnavailableError
from shared.readable import unread_by, unread_in
from shared.registry import WorkerLease
from shared.work import Envelope


@dataclass(frozen=True, slots=True)
class Reading:
    """`unable` are the workers that cannot read the work; `refusal` is there where no other is left."""

    unable: frozenset[str] = frozenset()
    refusal: Refused | None = None


_ALL = Reading()


def who_reads(workers: Sequence[WorkerLease], envelope: Callable[[], Envelope]) -> Reading:
    """Who of these ready workers reads the envelope, which is made only where a worker is older than this process."""
    older = [worker for worker in workers if unread_by(worker.reader.codes)]
    if not older:
        return _ALL
    message = wire.encode(envelope())
    unread = {worker.worker: names for worker in older if (names := unread_in(message, worker.reader))}
    if not unread or len(unread) < len(workers):
        return Reading(frozenset(unread))
    worker, names = min(unread.items())
    text = f"every worker of {workers[0].model} is older than this gateway: {worker} cannot read {', '.join(names)}"
    return Reading(frozenset(unread), Refused(ModelUnavailableError(text)))
