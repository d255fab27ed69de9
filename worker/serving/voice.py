"""What a worker says of a request from its own side, entry by entry. Whoever calls holds the runner's lock, which keeps
the entries in the order of their numbers."""

from __future__ import annotations

import logging

from shared.errors import GatewayError, WireError
from shared.events import Event, Failed, Returned
from shared.readable import readable_events
from shared.wire import FrameEntry, code_of
from worker.serving.attempt import Attempt
from worker.serving.publisher import Publisher

log = logging.getLogger(__name__)


def next_entry(work: Attempt, events: tuple[Event, ...], token_ids: tuple[int, ...] = ()) -> FrameEntry:
    """An entry with the attempt's next number, which is used up."""
    seq = work.seq
    work.seq += 1
    ticket = work.ticket
    return FrameEntry(request_id=ticket.request_id, attempt=ticket.attempt, seq=seq, token_ids=token_ids, events=events)


def last_event(work: Attempt, error: GatewayError) -> Failed | Returned:
    """What ends the attempt. A gateway that does not know what it is to get work back hears of an error."""
    if work.returned is None or code_of(Returned) in work.unread:
        return Failed.of(error)
    return Returned.of(work.returned, error)


class Voice:
    """Each call is a frame of its own."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def tell(self, work: Attempt, events: tuple[Event, ...]) -> None:
        """Raises `InternalError` for events that are not legal now, `WireError` and `ValueError` for what does not
        travel. What the gateway does not read is not said."""
        events = readable_events(events, work.unread)
        if not events:
            return
        for event in events:
            work.order.feed(event)
        entry = next_entry(work, events)
        try:
            self._publisher.publish(work.gateway, [entry])
        except (WireError, ValueError):
            work.seq = entry.seq  # its number is that of the error to come
            raise

    def fail(self, work: Attempt, error: GatewayError) -> None:
        """The request's last event."""
        try:
            self._publisher.publish(work.gateway, [next_entry(work, (last_event(work, error),))])
        except (WireError, ValueError):
            log.exception("the error of request %s cannot be encoded", work.ticket.request_id)
            work.seq -= 1
            plain = Failed(code=error.code, message="an error whose details cannot be told")
            self._publisher.publish(work.gateway, [next_entry(work, (plain,))])
