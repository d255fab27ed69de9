"""What a worker says of a request, entry by entry, to all who hear it. Whoever calls holds the runner's lock, which
keeps the entries in the order of their numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from shared.errors import GatewayError, InternalError, OverloadedError, WireError
from shared.events import Event, Failed, Returned
from shared.readable import readable_events, unread_by
from shared.request import Join
from shared.wire import FrameEntry, code_of
from worker.serving.attempt import Attempt
from worker.serving.publisher import Publisher
from worker.serving.said import Listener

log = logging.getLogger(__name__)

Spoken = tuple[Attempt, FrameEntry]  # of whose answer, and what one gateway hears of it


def next_entry(work: Attempt, events: tuple[Event, ...], token_ids: tuple[int, ...] = ()) -> FrameEntry:
    """An entry with the attempt's next number, which is used up."""
    seq = work.seq
    work.seq += 1
    ticket = work.ticket
    return FrameEntry(request_id=ticket.request_id, attempt=ticket.attempt, seq=seq, token_ids=token_ids, events=events)


def entries(
    work: Attempt, events: tuple[Event, ...], token_ids: tuple[int, ...] = ()
) -> Iterator[tuple[str, FrameEntry]]:
    """Each gateway that hears the request, with what it hears now."""
    if work.said is not None:
        work.said.note(events, token_ids)
    own = next_entry(work, events, token_ids)
    if not work.is_left:
        yield work.gateway, own
    for listener in work.listeners:
        yield listener.gateway, listener.next_entry(events, token_ids)


def _unsay(work: Attempt, count: int = 1) -> None:
    """The numbers of its last entries are those of the error to come."""
    work.seq -= count
    for listener in work.listeners:
        listener.seq -= count


def _said_since(work: Attempt, entry: FrameEntry) -> int:
    """How many entries have been made of the request, from this one on."""
    of_listener = (each.seq for each in work.listeners if each.request_id == entry.request_id)
    return next(of_listener, work.seq) - entry.seq


def last_event(work: Attempt, error: GatewayError) -> Failed | Returned:
    """What ends the attempt. A gateway that does not know what it is to get work back hears of an error."""
    if work.returned is None or code_of(Returned) in work.unread:
        return Failed.of(error)
    return Returned.of(work.returned, error)


def heard_as(work: Attempt) -> list[tuple[str, str]]:
    """Who hears the request: gateways, and what each calls it."""
    first = [] if work.is_left or not work.gateway else [(work.gateway, work.ticket.request_id)]
    return first + [(listener.gateway, listener.request_id) for listener in work.listeners]


def find_heard(works: Iterable[Attempt], request_id: str) -> Attempt | None:
    """The attempt that a gateway besides the first one hears under this name."""
    return next((work for work in works if any(each.request_id == request_id for each in work.listeners)), None)


class Voice:
    """Each call is a frame of its own for everyone who hears the request."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    # --- who hears it --------------------------------------------------------------------------------------------

    def begin(self, work: Attempt) -> None:
        """Its gateway hears it from here on."""
        self._publisher.add_work(work.gateway)

    def join(self, work: Attempt | None, join: Join) -> bool:
        """Another gateway hears it, too: everything again, or at once that it cannot be had."""
        listener = Listener(join.gateway, join.heard_as)
        can_hear = work is not None and not work.is_ended and work.unread == unread_by(join.codes)
        if work is None or work.said is None or not (can_hear and work.said.is_whole):
            refusal = Returned.of("busy", OverloadedError("the answer cannot be joined"))
            self._publisher.publish(join.gateway, [listener.next_entry((refusal,), ())])
            return False
        self._publisher.publish(join.gateway, [work.said.again(listener)])
        self._publisher.add_work(join.gateway)
        work.listeners.append(listener)
        return True

    def part(self, work: Attempt, request_id: str) -> None:
        """Whoever calls the request so hears no more of it."""
        if request_id == work.ticket.request_id and not work.is_left:
            work.is_left = True
            self._publisher.remove_work(work.gateway)
        for listener in [each for each in work.listeners if each.request_id == request_id]:
            work.listeners.remove(listener)
            self._publisher.remove_work(listener.gateway)

    def end(self, work: Attempt) -> None:
        """All was said."""
        for gateway, _ in heard_as(work):
            self._publisher.remove_work(gateway)

    # --- what is said --------------------------------------------------------------------------------------------

    def tell(self, work: Attempt, events: tuple[Event, ...]) -> None:
        """Raises `InternalError` for events that are not legal now, `WireError` and `ValueError` for what does not
        travel. What the gateway does not read is not said."""
        events = readable_events(events, work.unread)
        if not events:
            return
        for event in events:
            work.order.feed(event)
        said = list(entries(work, events))
        try:
            for gateway, entry in said:
                self._publisher.publish(gateway, [entry])
        except (WireError, ValueError):
            _unsay(work)
            raise

    def fail(self, work: Attempt, error: GatewayError) -> None:
        """The request's last event."""
        said = list(entries(work, (last_event(work, error),)))
        try:
            for gateway, entry in said:
                self._publisher.publish(gateway, [entry])
        except (WireError, ValueError):
            log.exception("the error of request %s cannot be encoded", work.ticket.request_id)
            _unsay(work)
            plain = Failed(code=error.code, message="an error whose details cannot be told")
            for gateway, entry in list(entries(work, (plain,))):
                self._publisher.publish(gateway, [entry])

    def publish(self, gateway: str, spoken: Sequence[Spoken], forget: Callable[[Attempt], None]) -> list[Attempt]:
        """One frame, or, when something in it does not travel, one for each request that can be told. Those that
        cannot end with an error; those of them that had not ended by themselves are forgotten, and are the result."""
        try:
            self._publisher.publish(gateway, [entry for _, entry in spoken])
            return []
        except (WireError, ValueError):
            log.exception("a frame cannot be encoded; its entries are sent one by one")
        ended = []
        for work, entry in spoken:
            if work.is_cut:
                continue
            try:
                self._publisher.publish(gateway, [entry])
            except (WireError, ValueError) as error:
                _unsay(work, _said_since(work, entry))
                work.is_cut = True
                work.error = InternalError(f"a part of the answer cannot be encoded: {type(error).__name__}")
                self.fail(work, work.error)
                if not work.is_ended:
                    forget(work)
                    ended.append(work)
        return ended
