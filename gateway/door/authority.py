"""Certificate authorities: one for the door, one for the hosts that joined, and one for browsers (`gateway.door.web`).

Whoever connects to the door trusts what the door's authority signed, under whatever name or address the sharing Mac is
reached; the door trusts what the hosts' authority signed. So no host can stand in for the door.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import ConfigError
from shared.extras import install_line
from shared.private_files import write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

DOOR_NAME = "door"
_AUTHORITY_DAYS = 20 * 365
_DOOR_DAYS = 2 * 365  # made anew at each start
HOST_DAYS = 365
_EARLIER = dt.timedelta(days=1)  # clocks of two Macs differ


def check_cryptography() -> None:
    """Raises `ConfigError` with the line that installs what certificates are made with."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"several Macs need one package more, to make certificates: {install_line('share')}"
        ) from error


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return _pem(self.certificate)

    @property
    def der(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.DER)

    def issue(
        self,
        name: str,
        public_key: EllipticCurvePublicKey,
        *,
        days: int,
        is_client: bool,
        reached_as: Sequence[str] = (),
    ) -> x509.Certificate:
        """For whoever holds the key, who is reached under `reached_as` (names and addresses; else under `name`).
        Clients may serve, too: hosts serve cache files to each other."""
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if is_client else [])]
        builder = _builder(name, self.certificate.subject, public_key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(
            x509.SubjectAlternativeName(general_names(reached_as or [name])), critical=False
        )
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return _signed(builder, self.key, self.key)

    def issue_host(self, name: str, request_pem: str) -> x509.Certificate:
        """For the key of a certificate request, of which nothing else is used. Raises `ConfigError`."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

        try:
            request = x509.load_pem_x509_csr(request_pem.encode())
        except ValueError as error:
            raise ConfigError("its certificate request cannot be read") from error
        public_key = request.public_key()
        if not request.is_signature_valid or not isinstance(public_key, EllipticCurvePublicKey):
            raise ConfigError("its certificate request is not signed with its key")
        return self.issue(name, public_key, days=HOST_DAYS, is_client=True)


def load_authority(folder: Path, name: str, only_for: Sequence[str] = ()) -> Authority:
    """`<name>-ca.pem` and `<name>-ca.key` of the folder, made on first use, then for these names and networks alone
    where any are given. Raises `ConfigError`."""
    check_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate_path, key_path = folder / f"{name}-ca.pem", folder / f"{name}-ca.key"
    try:
        if not certificate_path.exists():
            made = _make_authority(f"mlx-gateway {name}", only_for)
            write_private(key_path, key_pem(made.key))
            write_private(certificate_path, made.pem.encode())
            return made
        key = load_pem_private_key(key_path.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the authority in {folder} cannot be used: {error}") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError(f"{key_path} holds a key of another kind")
    return Authority(certificate, key)


def write_door_certificate(folder: Path, authority: Authority) -> Path:
    """A new one with its key in one file, for the door's TLS."""
    key = new_key()
    certificate = authority.issue(DOOR_NAME, key.public_key(), days=_DOOR_DAYS, is_client=False)
    path = folder / "door.pem"
    write_private(path, key_pem(key) + _pem(certificate).encode())
    return path


def new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def request_pem(key: EllipticCurvePrivateKey) -> str:
    """A certificate request for the key. The name in it is the door's business."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def serial_of(certificate: x509.Certificate) -> str:
    """As Python's ssl writes it: hexadecimal, an even number of digits."""
    text = f"{certificate.serial_number:X}"
    return text if len(text) % 2 == 0 else f"0{text}"


def certificate_pem(certificate: x509.Certificate) -> str:
    return _pem(certificate)


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def general_names(texts: Sequence[str]) -> list[x509.GeneralName]:
    """Addresses, networks, and for all else names."""
    from cryptography import x509

    found: list[x509.GeneralName] = []
    for text in texts:
        try:
            read = ipaddress.ip_network if "/" in text else ipaddress.ip_address
            found.append(x509.IPAddress(read(text)))
        except ValueError:
            found.append(x509.DNSName(text))
    return found


def _make_authority(name: str, only_for: Sequence[str] = ()) -> Authority:
    from cryptography import x509

    key = new_key()
    builder = _builder(name, _name(name), key.public_key(), _AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(usage, critical=True)
    if only_for:
        limits = x509.NameConstraints(permitted_subtrees=general_names(only_for), excluded_subtrees=None)
        builder = builder.add_extension(limits, critical=True)
    return Authority(_signed(builder, key, key), key)


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(name: str, issuer: x509.Name, key: EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey, issuer: EllipticCurvePrivateKey
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
