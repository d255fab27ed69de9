"""Two hosts' worth of kept files in one process: one lends, the other reads over a real connection."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from shared.grants import Grant, issue
from shared.messages import Message
from shared.request import GenerateRequest
from shared.seal import HostKey, derive_key
from shared.trail import TAG_BYTES, Trail
from worker.cache_files.server import FileServer

LENDER_KEY: HostKey = derive_key(b"a secret of at least thirty-two bytes", "lender")
READER = "reader"


@contextmanager
def lending(state: Path, key: HostKey = LENDER_KEY) -> Iterator[tuple[FileServer, str]]:
    """A server of what is kept below `state`, and its address."""
    server = FileServer(state / "cache", key)
    port = server.listen("127.0.0.1", 0)
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        server.close()


def grant_for(address: str, *, tokens: int = 1000, key: HostKey = LENDER_KEY, now_s: float | None = None) -> Grant:
    """As a gateway gives it."""
    return issue(key, reader=READER, address=address, tokens=tokens, now_s=time.time() if now_s is None else now_s)


def leave_for(address: str) -> Grant:
    """As a gateway gives it while the lender leaves."""
    return issue(LENDER_KEY, reader=READER, address=address, tokens=0, now_s=time.time(), is_handover=True)


def with_trail(request: GenerateRequest) -> GenerateRequest:
    """The request with tags of its messages' ends, as a gateway makes them: equal beginnings, equal tags."""
    return replace(request, trail=Trail(messages=tuple(_tags(request.messages))).encode())


def _tags(messages: Sequence[Message]) -> Iterator[bytes]:
    chain = hashlib.blake2b(digest_size=TAG_BYTES)
    for message in messages:
        chain.update(repr(message).encode())
        yield chain.copy().digest()
