"""Who offers a key, or a session that was opened with one.

A session is a time and a MAC of it and the key's digest: no gateway keeps any, each of a fleet knows them, and one ends
with its key. It says nothing of the key to who reads it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Final

from gateway.keys.brake import Brake
from gateway.keys.file import KeyFile
from gateway.keys.holder import OWNER, Holder
from gateway.keys.record import KeyRecord, digest_of
from shared.errors import AuthenticationError, GuessedKeysError

logger = logging.getLogger(__name__)

SESSION_S: Final = 12 * 3600
_PURPOSE: Final = b"mlx-gateway session\0"
_MOST: Final = 200  # characters of a session


class KeyCheck:
    """Knows the owner's key (`api_key`, empty: none) and those of the file. `secret` is the fleet's. Wrong keys are
    counted by the `address` that they came from; None is that of somebody who was let in already."""

    def __init__(self, api_key: str, keys: KeyFile, secret: bytes, brake: Brake | None = None) -> None:
        self._owners = _digests(api_key)
        self._keys = keys
        self._brake = brake or Brake()
        self._secret = hashlib.sha256(_PURPOSE + secret).digest()

    @property
    def is_needed(self) -> bool:
        """Whether anybody has a key: without, everyone who may come in is the owner."""
        return bool(self._owners) or self._keys.has_keys

    def holder(self, offered: Sequence[bytes], address: str | None = None) -> Holder:
        """Raises `AuthenticationError`, and `GuessedKeysError`."""
        return _holder_of(self._identify(offered, address))

    def open_session(self, offered: Sequence[bytes], address: str | None = None, *, now_s: float | None = None) -> str:
        """Raises `AuthenticationError`, and `GuessedKeysError`."""
        found = self._identify(offered, address)
        ends = f"{int((time.time() if now_s is None else now_s) + SESSION_S):x}"
        return f"{ends}.{self._mac(ends, found if isinstance(found, str) else found.digest)}"

    def session_holder(self, *sessions: str, now_s: float | None = None) -> Holder:
        """Of the first that is one. Raises `AuthenticationError`."""
        at_s = time.time() if now_s is None else now_s
        found = next((whose for each in sessions if (whose := self._find_session(each, at_s)) is not None), None)
        if found is None:
            raise AuthenticationError("the session has ended: sign in again")
        return found

    def _find_session(self, session: str, now_s: float) -> Holder | None:
        ends, _, mac = session.partition(".")
        if len(session) <= _MOST and _is_ahead(ends, now_s):
            for digest, whose in self._living():
                if hmac.compare_digest(self._mac(ends, digest).encode(), mac.encode()):
                    return whose
        return None

    def _mac(self, ends: str, digest: str) -> str:
        return hmac.new(self._secret, f"{ends}\0{digest}".encode(), hashlib.sha256).hexdigest()

    def _living(self) -> Iterator[tuple[str, Holder]]:
        for digest in self._owners:
            yield digest, OWNER
        for record in self._keys.records():
            if record.state(time.time()) == "valid":
                yield record.digest, record.holder

    def _identify(self, offered: Sequence[bytes], address: str | None) -> str | KeyRecord:
        """The digest of the owner's key, or another's record. Nobody guesses one that was made here, so that it needs
        no brake; the owner's is what a person thought of. Raises `AuthenticationError`, and `GuessedKeysError`."""
        digests = [digest_of(key) for key in offered]
        known = [record for digest in digests if (record := self._keys.find(digest)) is not None]
        for record in known:
            if record.state(time.time()) == "valid":
                return record
        if known:
            raise AuthenticationError(f"the API key {known[0].name!r} is {known[0].state(time.time())}")
        if address is not None and offered:
            self._check_brake(address)
        for owners in [each for each in self._owners for one in digests if hmac.compare_digest(one, each)]:
            return owners
        if address is not None and offered:
            self._note_wrong(address, digests)
        raise AuthenticationError(
            "the API key is missing or wrong: the gateway knows the MLX_GATEWAY_API_KEY that it was started with, and "
            "those that `mlx-gateway key create NAME` made there"
        )

    def _check_brake(self, address: str) -> None:
        if wait_s := self._brake.wait_s(address):
            raise GuessedKeysError(
                f"many wrong API keys came from {address or 'there'}: the next is looked at in {math.ceil(wait_s)} s",
                retry_after_s=wait_s,
            )

    def _note_wrong(self, address: str, digests: Sequence[str]) -> None:
        if wait_s := self._brake.note(address, digests):
            logger.warning("many wrong API keys come from %s: its next is looked at in %.0f s", address, wait_s)


def _holder_of(found: str | KeyRecord) -> Holder:
    return OWNER if isinstance(found, str) else found.holder


def _is_ahead(ends: str, now_s: float) -> bool:
    try:
        return now_s < int(ends, 16) <= now_s + SESSION_S
    except ValueError:
        return False


def _digests(api_key: str) -> frozenset[str]:
    """Of the key's bytes as clients send them: in UTF-8 (curl), or in Latin-1 (`fetch`). Digests have one length, so
    that the comparison tells nothing about the key's."""
    spelled = {api_key.encode("utf-8", "surrogateescape")}
    if all(ord(character) < 0x100 for character in api_key):
        spelled.add(api_key.encode("latin-1"))
    return frozenset(digest_of(key) for key in spelled) if api_key else frozenset()
