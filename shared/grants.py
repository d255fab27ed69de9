"""Leave to read kept prefixes from another host: given by a gateway, which holds the keys of all hosts, to one worker,
for one request.

A host knows no key but its own, so a grant has two halves. The ticket says who may read and until when; it goes to the
peer. The key was made of the ticket with the peer's own key; it goes to the reader, with the request. Who knows the key
to a ticket was given it, and the peer, which makes the key again, proves by it who it is. So no two hosts share a
secret, and a host whose key has a new generation can neither give nor take.

Leave for one request is for the prompt whose tags the reader knows. A host that leaves hands its latest conversations
over, whosever they are: a ticket for that says so.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

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


def issue(peer: HostKey, *, reader: str, address: str, tokens: int, now_s: float, is_handover: bool = False) -> Grant:
    """For `reader`, a host's word. `now_s` is Unix time."""
    words = [_VERSION, reader, int(now_s) + GRANT_S, secrets.token_bytes(_NONCE_BYTES)]
    ticket = msgpack.packb([*words, _HANDOVER] if is_handover else words)
    return Grant(peer=peer.host, address=address, tokens=tokens, ticket=ticket, key=key_of(peer, ticket))


def key_of(peer: HostKey, ticket: bytes) -> bytes:
    """The key that belongs to a ticket."""
    return peer.seal(Purpose.CACHE).code_of(ticket)


def check_ticket(ticket: bytes, *, now_s: float) -> str:
    """Who reads. The ticket is genuine only if its reader knows its key. Raises `WireError` for one that is over, and
    for what is none."""
    match _unpacked(ticket):
        case [int(version), str(reader), int(until_s), bytes(), *scope] if version == _VERSION and _is_scope(scope):
            if until_s < now_s:
                raise WireError("a grant that is over")
            return reader
    raise WireError("no ticket")


def is_handover(ticket: bytes) -> bool:
    """Of a ticket that was checked: whether it is leave to read what the host has, without knowing a tag of it."""
    words = _unpacked(ticket)
    return isinstance(words, list) and words[-1] == _HANDOVER


def _is_scope(words: list[object]) -> bool:
    return words in ([], [_HANDOVER])


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
