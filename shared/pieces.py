"""What a worker keeps of prompts, piece by piece, as it is told to whoever looks: sizes, never what was said."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

KEY_HEX = 40  # digits of a piece's key


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAtPieces:
    """To a worker: tell this gateway what is kept, under this number; first `drop` the pieces with these keys, and all
    that hangs below them, as far as no request needs it now."""

    gateway: str
    number: str
    drop: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens `start..end` of prompts that begin alike so far. It hangs below the piece with the key `above`, which is
    empty at the top of a tenant's tree. `sessions` are the digests of the latest that came through it since it is in
    this process's memory."""

    key: bytes
    above: bytes
    start: int
    end: int
    memory_bytes: int = 0
    stored_bytes: int = 0
    uses: int = 0
    sessions: tuple[str, ...] = ()
    is_in_use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """A worker's answer to the look with this number; parents come before children. `more` pieces are not told,
    `dropped` were. `is_known`: whether the engine can tell at all."""

    number: str
    pieces: tuple[Piece, ...] = ()
    more: int = 0
    dropped: int = 0
    is_known: bool = True


def session_digest(session: str) -> str:
    """Tells sessions apart without saying what their clients call them."""
    return hashlib.blake2b(session.encode(errors="replace"), digest_size=4).hexdigest() if session else ""
