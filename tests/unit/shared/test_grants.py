"""Leave to read another host's files: who has it, for how long, and who can tell."""

from __future__ import annotations

import msgpack
import pytest

from shared.errors import WireError
from shared.grants import GRANT_S, Leave, check_ticket, decode_grant, issue, key_of
from shared.seal import Keyring, derive_key, keys_of_host

SECRET = b"a secret of at least thirty-two bytes"


def test_a_grant_travels_and_its_peer_makes_the_key_again_from_its_own_alone() -> None:
    given = issue(Keyring(SECRET).of("studio"), reader="air", address="studio:1", tokens=7, now_s=1000.0)
    grant = decode_grant(given.encode())
    assert grant == given
    assert key_of(keys_of_host(SECRET, "studio").own, grant.ticket) == grant.key
    assert check_ticket(grant.ticket, now_s=1000.0) == Leave(reader="air")


def test_neither_another_host_nor_another_generation_can_make_the_key() -> None:
    grant = issue(Keyring(SECRET).of("studio"), reader="air", address="studio:1", tokens=7, now_s=1000.0)
    for other in (derive_key(SECRET, "air"), derive_key(SECRET, "studio", 2), derive_key(b"x" * 32, "studio")):
        assert key_of(other, grant.ticket) != grant.key


@pytest.mark.parametrize("generation", [1, 2, 7])
@pytest.mark.parametrize("is_handover", [False, True])
def test_a_ticket_names_the_generation_of_its_readers_key(generation: int, *, is_handover: bool) -> None:
    peer = Keyring(SECRET).of("studio")
    grant = issue(peer, reader="air", address="", tokens=1, now_s=1.0, generation=generation, is_handover=is_handover)
    leave = check_ticket(grant.ticket, now_s=1.0)
    assert leave == Leave(reader="air", generation=generation, is_handover=is_handover)


@pytest.mark.parametrize("more", [["other"], ["handover", "x"], [2, "handover"], [2, 3], ["handover", 2, 3], [None]])
def test_a_ticket_that_says_more_than_is_known_is_none(more: list[object]) -> None:
    with pytest.raises(WireError):
        check_ticket(msgpack.packb([1, "air", 10_000, b"nonce", *more]), now_s=1.0)


def test_each_grant_has_a_key_of_its_own() -> None:
    peer = Keyring(SECRET).of("studio")
    first, second = (issue(peer, reader="air", address="", tokens=1, now_s=1.0) for _ in range(2))
    assert first.key != second.key


def test_a_grant_that_is_over_and_what_is_none_are_refused() -> None:
    grant = issue(Keyring(SECRET).of("studio"), reader="air", address="", tokens=1, now_s=1000.0)
    with pytest.raises(WireError):
        check_ticket(grant.ticket, now_s=1000.0 + GRANT_S + 1)
    for data in (b"\xc1", b"\x90", b"\x91\x01", grant.encode()[:-1], b"junk"):
        with pytest.raises(WireError):
            check_ticket(data, now_s=0.0)
        with pytest.raises(WireError):
            decode_grant(data)


def test_no_grant_and_one_of_a_later_version_are_none() -> None:
    assert decode_grant(b"") is None
    assert decode_grant(b"\x92\x02\xa1x") is None
