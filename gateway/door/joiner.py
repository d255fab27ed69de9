"""The joiner's side: checks whom it speaks to before it says anything, asks, keeps what it is given."""

from __future__ import annotations

import errno
import importlib.metadata
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from gateway.door import messages
from gateway.door.authority import DOOR_NAME, check_cryptography, key_pem, new_key, request_pem
from gateway.door.code import JoinCode, print_of
from gateway.door.door import JOIN
from gateway.door.messages import (
    MAX_LINE_BYTES,
    Ask,
    Grant,
    Greeting,
    Hello,
    Refused,
    Renewal,
    decode_line,
    encode_line,
    read_message,
)
from shared.errors import ConfigError, WireError
from shared.membership import HOST, Membership, folder_of, write_membership
from shared.wire import READER

_TIMEOUT_S = 15.0
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EPERM, errno.EACCES)
# macOS 15 and later refuse local addresses to programs that the person has not allowed them, without saying so.
_PERMISSION = (
    "; on macOS also see System Settings > Privacy & Security > Local Network, where the terminal, or the program that "
    "started this, must be allowed"
)


def is_unreachable(error: ConfigError) -> bool:
    """Whether nothing answered there, which may pass."""
    return bool(error.details.get("is_unreachable"))


@dataclass(frozen=True, slots=True)
class Myself:
    """Of this installation: its version, and the wire versions that it speaks."""

    version: str
    wire: tuple[int, ...]


def this_installation() -> Myself:
    return Myself(importlib.metadata.version("mlx-gateway"), READER.versions)


def join_fleet(
    state_dir: Path, address: str, port: int, code: JoinCode, name: str, myself: Myself, *, role: str = HOST
) -> Membership:
    """Become a host, or a gateway, of the fleet whose door is there, and keep that in the state folder. Raises
    `ConfigError`, one line for a person; nothing has changed then."""
    check_cryptography()
    door_ca = _look_at(address, port)
    if print_of(ssl.PEM_cert_to_DER_cert(door_ca)) != code.authority_print:
        raise ConfigError(
            f"what answers at {address} is not the Mac that made this code (or the code has a mistake in it): "
            "nothing was sent to it"
        )
    key = new_key()
    ask = Ask(
        secret=code.secret,
        name=name,
        version=myself.version,
        wire=list(myself.wire),
        request=request_pem(key),
        role=role,
    )
    with _talk(address, port, _context(door_ca)) as line:
        read_message(decode_line(line.read()), Greeting)
        line.write(ask)
        grant = read_message(decode_line(line.read()), Grant)
        if grant.role != role:
            raise ConfigError("the sharing Mac knows no gateways that join: update mlx-gateway there")
        membership = Membership(
            address=address,
            port=port,
            host=grant.host,
            generation=grant.generation,
            key=grant.key,
            anyone=grant.anyone,
            deployment=grant.deployment,
            database=grant.database,
            user=grant.user,
            password=grant.password,
            certificate=grant.certificate,
            private_key=key_pem(key).decode(),
            door_ca=door_ca,
            hosts_ca=grant.hosts_ca,
            role=grant.role,
            secret=grant.secret,
        )
        write_membership(state_dir, membership)
        line.write(messages.STORED)
        if decode_line(line.read()) != messages.WELCOME:
            raise ConfigError("the sharing Mac did not say welcome: join again")
    return membership


def shows(address: str, port: int, code: JoinCode) -> bool:
    """Whether who answers there shows the authority that the code names. Nothing is said to it."""
    try:
        return print_of(ssl.PEM_cert_to_DER_cert(_look_at(address, port))) == code.authority_print
    except ConfigError:
        return False


def greet(state_dir: Path, membership: Membership, myself: Myself) -> Membership:
    """Hear whether this host still counts and its version fits, with a new certificate when the old one ends soon.
    Raises `ConfigError` with the door's words, or since nothing answers (`is_unreachable`)."""
    folder = folder_of(state_dir)
    try:
        request = _renewal_request(membership)
        context = _context(membership.door_ca, folder)
    except (ValueError, ssl.SSLError) as error:  # what is in the files is neither a certificate nor a key
        raise ConfigError(f"what {folder} says of the fleet cannot be read ({error}): join again") from error
    with _talk(membership.address, membership.port, context) as line:
        read_message(decode_line(line.read()), Greeting)
        line.write(Hello(version=myself.version, wire=list(myself.wire), request=request))
        renewal = read_message(decode_line(line.read()), Renewal)
    if not renewal.certificate:
        return membership
    renewed = replace(membership, certificate=renewal.certificate)
    write_membership(state_dir, renewed)
    return renewed


def _renewal_request(membership: Membership) -> str:
    """Empty while the certificate lasts. Raises `ValueError` for what is none, or no key."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not ends_soon(membership.certificate):
        return ""
    key = load_pem_private_key(membership.private_key.encode(), None)
    return request_pem(key) if isinstance(key, EllipticCurvePrivateKey) else ""


def ends_soon(certificate: str) -> bool:
    """Within a quarter of its life, whatever the clock says of its beginning."""
    import datetime as dt

    from cryptography import x509

    found = x509.load_pem_x509_certificate(certificate.encode())
    life = found.not_valid_after_utc - found.not_valid_before_utc
    return dt.datetime.now(dt.UTC) > found.not_valid_after_utc - life / 4


class _Line:
    """Messages over one TLS connection."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._file: IO[bytes] = connection.makefile("rb")

    def read(self) -> bytes:
        line = self._file.readline(MAX_LINE_BYTES)
        if not line:
            raise ConnectionError("the other side ended the conversation")
        return line

    def close(self) -> None:
        self._file.close()

    def write(self, message: object) -> None:
        self._connection.sendall(encode_line(message))


def _look_at(address: str, port: int) -> str:
    """The certificate of the authority that the door says it has. Nothing is said to whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the code says whose certificate it must be; the next connection checks it
    context.set_alpn_protocols([JOIN])
    with _talk(address, port, context) as line:
        return read_message(decode_line(line.read()), Greeting).door_ca


def _context(door_ca: str, member: Path | None = None) -> ssl.SSLContext:
    """Of who trusts the door's authority alone, and shows the certificate of a member's folder."""
    context = ssl.create_default_context(cadata=door_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([JOIN])
    if member is not None:
        context.load_cert_chain(member / "host.pem", member / "host.key")
    return context


@contextmanager
def _talk(address: str, port: int, context: ssl.SSLContext) -> Iterator[_Line]:
    """Everything that can go wrong on the way as one line for a person."""
    where = f"{address}:{port}"
    try:
        with socket.create_connection((address, port), timeout=_TIMEOUT_S) as plain:
            with context.wrap_socket(plain, server_hostname=DOOR_NAME) as connection:
                line = _Line(connection)
                try:
                    yield line
                finally:
                    line.close()
    except Refused as refusal:
        raise ConfigError(str(refusal)) from refusal
    except WireError as error:
        raise ConfigError(f"what answers at {where} is no door of mlx-gateway: {error.message}") from error
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"what answers at {where} cannot show that it is the door of this fleet ({error.verify_message}): "
            "nothing was sent to it"
        ) from error
    except ssl.SSLError as error:
        raise ConfigError(f"what answers at {where} is no door of mlx-gateway: {error.reason}") from error
    except socket.gaierror as error:
        raise ConfigError(
            f"no Mac called {address} is found in this network: give the sharing Mac's name or address as it prints it",
            is_unreachable=True,
        ) from error
    except OSError as error:
        raise ConfigError(_why_unreachable(where, error), is_unreachable=True) from error


def _why_unreachable(where: str, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {where}: is `mlx-gateway up --share` running there, on this port?{_hint()}"
    if isinstance(error, ConnectionError):
        return f"what answers at {where} ended the conversation: {error.strerror or error}"
    why = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
    is_denied = error.errno in _UNREACHABLE or isinstance(error, TimeoutError)
    return f"{where} cannot be reached ({why}): are both Macs in the same network?{_hint() if is_denied else ''}"


def _hint() -> str:
    return _PERMISSION if sys.platform == "darwin" else ""
