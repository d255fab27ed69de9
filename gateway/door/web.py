"""The certificate that browsers and clients see at the gateway, and the authority that they are told to trust.

Whoever trusts an authority believes all that it signs. So this one is neither the door's nor the hosts', and may sign
for names and addresses of local networks alone (RFC 5280, 4.2.1.10): who steals its key can stand in for no other site.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.door.authority import Authority, certificate_pem, general_names, key_pem, load_authority, new_key
from gateway.door.whereabouts import local_name, own_address
from shared.errors import ConfigError
from shared.hosts import is_loopback_address
from shared.private_files import write_private

if TYPE_CHECKING:
    from cryptography import x509

AUTHORITY_FILE: Final = "web-ca.pem"
_DAYS: Final = 730  # Apple's clients take 825 at most
_RENEWED_AT: Final = 0.75  # of its life
_BEGINS: Final = b"-----BEGIN CERTIFICATE-----"
_LOCAL_NAMES: Final = ("localhost", "local", "lan", "home", "home.arpa", "internal")
_LOCAL_NETWORKS: Final = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",  # of networks laid over others (RFC 6598)
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)


def own_label() -> str:
    """The first word of this machine's name."""
    return socket.gethostname().partition(".")[0].lower()


def load_web_authority(folder: Path) -> Authority:
    """Made on first use. Raises `ConfigError`."""
    label = own_label()
    return load_authority(folder, "web", [*_LOCAL_NAMES, *([label] if label else []), *_LOCAL_NETWORKS])


def reached_as(listens: str) -> list[str]:
    """The names and addresses under which a gateway that listens at this address may be reached from its network."""
    found = ["localhost", "127.0.0.1", "::1"]
    if listens != "localhost" and not is_loopback_address(listens):
        found += [local_name().lower(), own_label(), own_address()]
        found += [] if listens in ("0.0.0.0", "::") else [listens]
    return [each for each in dict.fromkeys(found) if each and _is_local(each)]


def _is_local(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text.rpartition(".")[2] in (*_LOCAL_NAMES, own_label()) or text.endswith(".home.arpa")
    networks = [ipaddress.ip_network(each) for each in _LOCAL_NETWORKS]
    return any(address in network for network in networks if network.version == address.version)


def ensure_web_certificate(folder: Path, names: Sequence[str]) -> Path:
    """The certificate for these names with its key, in one file: the one that is there while it fits, else a new one.
    Raises `ConfigError`."""
    authority, path = load_web_authority(folder), folder / "web.pem"
    if _fits(path, authority, names):
        return path
    key = new_key()
    certificate = authority.issue("mlx-gateway", key.public_key(), days=_DAYS, is_client=False, reached_as=names)
    try:
        write_private(path, key_pem(key) + certificate_pem(certificate).encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _fits(path: Path, authority: Authority, names: Sequence[str]) -> bool:
    """Of this authority, for these names, and in the first three quarters of its life."""
    from cryptography import x509

    try:
        data = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(data[data.index(_BEGINS) :])
        certificate.verify_directly_issued_by(authority.certificate)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is made anew
        return False
    return set(found) == set(general_names(names)) and dt.datetime.now(dt.UTC) < _renewed_at(certificate)


def _renewed_at(certificate: x509.Certificate) -> dt.datetime:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begins + (ends - begins) * _RENEWED_AT
