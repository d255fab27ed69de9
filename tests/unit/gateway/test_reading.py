"""Work goes to workers that can read it; where none can, that is said."""

from __future__ import annotations

import pytest

from gateway.dispatch.reading import who_reads
from shared import wire
from shared.messages import ImagePart, Message, TextPart
from shared.registry import Reader, WorkerLease
from shared.request import GenerateRequest
from shared.work import Count, Envelope, Generate
from tests.support.fleet import lease

OLD = Reader(versions=(wire.WIRE_VERSION,), codes=tuple(wire.CODES - {wire.code_of(ImagePart)}))
NEW_WORKER, OLD_WORKER = lease("m", worker="new.m.e1"), lease("m", worker="old.m.e1", reader=OLD)


def envelope(*parts: TextPart | ImagePart) -> Envelope:
    request = GenerateRequest(id="r", model="m", messages=(Message(role="user", parts=parts),))
    return Envelope(work=Generate(request=request), gateway="g")


TEXT = envelope(TextPart(text="hi"))
IMAGE = envelope(ImagePart(data="iVBO", media_type="image/png"))


@pytest.mark.parametrize(
    ("workers", "given", "unable"),
    [
        ((NEW_WORKER, OLD_WORKER), TEXT, set()),
        ((OLD_WORKER,), TEXT, set()),
        ((NEW_WORKER, OLD_WORKER), IMAGE, {"old.m.e1"}),
    ],
)
def test_a_worker_is_avoided_for_what_it_cannot_read_alone(
    workers: tuple[WorkerLease, ...], given: Envelope, unable: set[str]
) -> None:
    reading = who_reads(workers, lambda: given)
    assert (reading.unable, reading.refusal) == (unable, None)


def test_where_no_worker_can_read_it_the_request_is_refused_with_the_reason() -> None:
    refusal = who_reads((OLD_WORKER,), lambda: IMAGE).refusal
    assert refusal is not None
    assert refusal.error.code == "model_unavailable"
    assert "old.m.e1 cannot read ImagePart" in refusal.error.message


def test_among_workers_of_this_revision_nothing_is_looked_at() -> None:
    def fail() -> Envelope:
        raise AssertionError("nobody needs it")

    assert who_reads((NEW_WORKER,), fail).unable == frozenset()
    assert who_reads((), fail).refusal is None


@pytest.mark.parametrize("unread", [Envelope, Count])
def test_a_count_is_for_workers_that_read_envelopes_and_counts(unread: type) -> None:
    reader = Reader(versions=(wire.WIRE_VERSION,), codes=tuple(wire.CODES - {wire.code_of(unread)}))
    older = lease("m", worker="old.m.e1", reader=reader)
    count = Envelope(work=Count(request=TEXT.request), gateway="g")
    assert who_reads((NEW_WORKER, older), lambda: count).unable == {"old.m.e1"}
