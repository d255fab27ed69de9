"""Leave to read kept prefixes from another host: given by a gateway, which holds the keys of all hosts, to one worker,
for one request.

A host knows no key but its own, so a grant has two halves. The ticket says who may read and until when; it goes to the
peer. The key was made of the ticket with the peer's own key; it goes to the reader, with the request. Who knows the key
to a ticket was given it, and the peer, which makes the key again, proves by it who it is. So no two hosts share a
secret, and a host whose key has a new generation can neither give, since the key was made with the former, nor take,
since the ticket names the generation of its reader's key, which the peer compares with what it was told last.

Leave for one request is for the prompt whose tags the reader knows. A host that leaves hands its latest conversations
over, whosever they are: a ticket for that says so.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import msgpack

from shared.errors import WireError
from shared.seal import HostKey, Purpose

GRANT_S = 3600  # much longer than any request: machines' clocks need not agree
_VERSION = 1
_NONCE_BYTES = 16
_HANDOVER = "handover"
MAX_TICKET_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """`peer` is the word of the host whose files may be read at `address` (host:port, or by the door). `tokens`
    of the request's prompt are said to lie there; 0: nothing is to be fetched, but its rate is to be measured."""

    peer: str
    address: str
    tokens: int
    ticket: bytes
    key: bytes = field(repr=False)

    def encode(self) -> bytes:
        """As it travels with a request: opaque to whoever does not know it."""
        packed: bytes = msgpack.packb([_VERSION, self.peer, self.address, self.tokens, self.ticket, self.key])
        return packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """What a ticket says: which host may read, by its word and the generation of its key; and whether it may read what
    the peer has without knowing a tag of it."""

    reader: str
    generation: int = 1
    is_handover: bool = False


def issue(
    peer: HostKey,
    *,
    reader: str,
    address: str,
    tokens: int,
    now_s: float,
    generation: int = 1,
    is_handover: bool = False,
) -> Grant:
    """For `reader`, a host's word, whose key is of this generation. `now_s` is Unix time."""
    words: list[Any] = [_VERSION, reader, int(now_s) + GRANT_S, secrets.token_bytes(_NONCE_BYTES)]
    words += [_HANDOVER] if is_handover else []
    words += [generation] if generation != 1 else []  # a first one is not said, nor known to hosts of before
    ticket = msgpack.packb(words)
    return Grant(peer=peer.host, address=address, tokens=tokens, ticket=ticket, key=key_of(peer, ticket))


def key_of(peer: HostKey, ticket: bytes) -> bytes:
    """The key that belongs to a ticket."""
    return peer.seal(Purpose.CACHE).code_of(ticket)


def check_ticket(ticket: bytes, *, now_s: float) -> Leave:
    """The ticket is genuine only if its reader knows its key. Raises `WireError` for one that is over, and for what is
    none."""
    match _unpacked(ticket):
        case [int(version), str(reader), int(until_s), bytes(), *more] if version == _VERSION:
            if until_s < now_s:
                raise WireError("a grant that is over")
            return _leave(reader, more)
    raise WireError("no ticket")


def _leave(reader: str, more: list[Any]) -> Leave:
    is_handover = more[:1] == [_HANDOVER]
    match more[is_handover:]:
        case []:
            return Leave(reader=reader, is_handover=is_handover)
        case [int(generation)]:
            return Leave(reader=reader, generation=generation, is_handover=is_handover)
    raise WireError("no ticket")


def decode_grant(data: bytes) -> Grant | None:
    """None for no bytes and for a version that is not known here: it is help, not a contract. Raises `WireError` for
    what cannot be one."""
    if not data:
        return None
    match _unpacked(data):
        case [int(version), *_] if version != _VERSION:
            return None
        case [_, str(peer), str(address), int(tokens), bytes(ticket), bytes(key)]:
            return Grant(peer=peer, address=address, tokens=tokens, ticket=ticket, key=key)
    raise WireError("no grant")


def _unpacked(data: bytes) -> object:
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"no grant: {type(error).__name__}") from error
