"""`Idempotency-Key`: the name that a client gives a request, so that it can ask it again wherever it gets through."""

from __future__ import annotations

import hashlib

from starlette.types import Scope

from gateway.dispatch.runs import Repeat
from gateway.http.replies import header
from gateway.intake.reader import Body

HEADER = "idempotency-key"


def note_repeat(scope: Scope, body: Body) -> None:
    """Keep what the client calls the request, and the digest of path and body, for `repeat_of`."""
    key = header(scope, HEADER.encode())
    if key:
        digest = hashlib.sha256(scope["path"].encode())
        for chunk in body.chunks:
            digest.update(chunk)
        scope["state"]["repeat"] = Repeat(key, digest.hexdigest())


def repeat_of(scope: Scope) -> Repeat | None:
    """None where the client gave it no name."""
    found: Repeat | None = scope["state"].get("repeat")
    return found
