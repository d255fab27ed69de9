"""A body is what was signed, or nothing is made of it."""

from __future__ import annotations

import pytest

from shared import wire
from shared.errors import WireError
from shared.messages import Message, TextPart
from shared.request import GenerateRequest
from shared.work import Envelope, Generate, job_subject
from tests.support.sealed import KEYRING
from worker.serving import bodies
from worker.serving.bodies import is_ended, read_envelope
from worker.serving.ticket import Ticket

KEY = KEYRING.of("host")


def signed(text: str) -> tuple[Ticket, bytes]:
    message = Message(role="user", parts=(TextPart(text=text),))
    request = GenerateRequest(id="r", model="m", messages=(message,))
    data = wire.encode(Envelope(work=Generate(request=request), gateway="gw"))
    return Ticket("r", 1, KEY.sign(job_subject("generate", "r-1"), data)), data


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_signed_body_is_read(size: int) -> None:
    envelope, is_signed = read_envelope(*signed("x" * size), KEY)
    assert (envelope.request.id, is_signed) == ("r", True)


def test_of_a_body_that_was_not_signed_only_a_short_one_is_read_to_know_who_is_told() -> None:
    ticket, data = signed("short")
    assert read_envelope(Ticket("r", 2, ticket.signature), data, KEY)[1] is False
    assert read_envelope(ticket, data, KEYRING.of("other"))[1] is False


@pytest.mark.parametrize("bomb", [b"\xdd\x00\x98\x96\x80" + b"\xc0" * 10_000_000, b"\x91" * 100_000])
def test_a_large_body_that_was_not_signed_is_not_decoded(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "decode_envelope", lambda _: pytest.fail("it was decoded"))
    ticket, _ = signed("short")
    with pytest.raises(WireError, match="signature"):
        read_envelope(ticket, wire.encode("")[:1] + bomb, KEY)


@pytest.mark.parametrize(
    ("mark", "ended"), [(b"1", True), (b"0", False), (b"9" * 5000, True), (b"x", True), (b"\xff", True), (b"", True)]
)
def test_a_mark_of_any_length_is_read(mark: bytes, ended: bool) -> None:
    assert is_ended(mark, 1) is ended
