"""The way through the door to files that another host has kept, and the door's words on it: one JSON object a line.

    lender:  {"lend": HOST}      stays; hears {"lending": true}, then {"reader": CODE} for each who wants to read,
                                 and {"alive": true} now and then
    lender:  {"take": CODE}      on a connection of its own: from here on it is the reader's
    reader:  {"read": HOST}      hears {"taken": true}, and from here on it is the lender's; or {"refused": "…"}

A host that joined comes through TLS and is who its certificate names; those of the sharing Mac come through a unix
socket that only its user can open. What is said behind these words is the lender's and the reader's own business
(`worker.cache_files.protocol`): the door gives no leave to read.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import orjson

from shared.config import Settings
from shared.errors import ConfigError, WireError
from shared.membership import Membership, door_context, read_membership

BY_DOOR = "door"  # in the place of an address: whoever is given it goes through the door
CACHE = "mlxgw-cache"
SOCKET_NOTE = "caches"  # the file in the door's folder that says where its unix socket is
MAX_LINE_BYTES = 512
ALIVE_S = 10.0
_CONNECT_S = 5.0


def encode_words(**words: str | bool) -> bytes:
    return orjson.dumps(words) + b"\n"


def decode_words(line: bytes) -> dict[str, Any]:
    """Raises `WireError`."""
    try:
        words = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise WireError("what came is no word of a door") from error
    if not isinstance(words, dict):
        raise WireError("what came is no word of a door")
    return words


def has_door(settings: Settings) -> bool:
    """Whether there may be a door to go through: of the fleet that this host joined, or of this Mac."""
    return settings.is_member or _note(settings).exists()


def open_door(settings: Settings) -> socket.socket:
    """A connection on which nothing was said. Raises `OSError`, of which `ssl.SSLError` is one, and `ConfigError` where
    there is no door."""
    if not settings.is_member:
        return _open_here(settings)
    membership = read_membership(settings.state_dir)
    if membership is None:
        raise ConfigError("what is known of the fleet is gone: join it again")
    return _open_there(settings.state_dir, membership)


def read_through_door(settings: Settings, host: str) -> socket.socket:
    """A stream whose other end the lender holds. Raises as `open_door` and `WireError`, and `ConnectionError` where the
    door does not lead to the host."""
    stream = open_door(settings)
    try:
        stream.sendall(encode_words(read=host))
        words = decode_words(read_line(stream))
        if words.get("taken") is not True:
            raise ConnectionRefusedError(f"the door does not lead there: {words.get('refused')}")
    except BaseException:
        stream.close()
        raise
    return stream


def read_line(stream: socket.socket) -> bytes:
    """Not a byte more: what follows is for somebody else. Raises `ConnectionError` where it does not come."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte or len(line) > MAX_LINE_BYTES:
            raise ConnectionError("the door said nothing that can be understood")
        line += byte
    return bytes(line)


def hang_up(stream: socket.socket) -> None:
    """From any thread: whoever reads or writes there is woken. What is under TLS stays under TLS: `SSLSocket.shutdown`
    itself would go on in the clear."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(stream, socket.SHUT_RDWR)


def _note(settings: Settings) -> Path:
    return settings.state_dir / "door" / SOCKET_NOTE


def _open_here(settings: Settings) -> socket.socket:
    try:
        path = _note(settings).read_text()
    except FileNotFoundError as error:
        raise ConfigError("no door is open on this Mac") from error
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(_CONNECT_S)
        stream.connect(path)
    except BaseException:
        stream.close()
        raise
    return stream


def _open_there(state_dir: Path, membership: Membership) -> socket.socket:
    plain = socket.create_connection((membership.address, membership.port), timeout=_CONNECT_S)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = door_context(state_dir, membership, CACHE)
        stream = context.wrap_socket(plain, server_hostname=membership.address)
    except BaseException:
        plain.close()
        raise
    if stream.selected_alpn_protocol() != CACHE:
        stream.close()
        raise ssl.SSLError("the door serves no caches")
    return stream
