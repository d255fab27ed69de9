"""The certificate of HTTPS: under which names it is believed, when it is made anew, and what its authority may not."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from pathlib import Path

import pytest

from gateway.door import web
from gateway.door.authority import certificate_pem, key_pem, load_authority, new_key
from gateway.door.web import AUTHORITY_FILE, ensure_web_certificate, load_web_authority, own_label, reached_as

NAMES = ["localhost", "127.0.0.1", "studio.local", "192.168.1.7", "fd00::7"]


def handshake(certificate: Path, authority: Path, name: str) -> dict[str, object]:
    """What a client sees that trusts the authority and asks for this name; raises `SSLError`. In memory."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    client_context = ssl.create_default_context(cafile=str(authority))
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return dict(client.getpeercert() or {})


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_trusts_the_authority_believes_each_name_and_address(tmp_path: Path, name: str) -> None:
    certificate = ensure_web_certificate(tmp_path, NAMES)
    assert handshake(certificate, tmp_path / AUTHORITY_FILE, name)["subject"] == ((("commonName", "mlx-gateway"),),)


def test_a_name_that_it_was_not_made_for_is_not_believed(tmp_path: Path) -> None:
    certificate = ensure_web_certificate(tmp_path, NAMES)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(certificate, tmp_path / AUTHORITY_FILE, "attic.local")


@pytest.mark.parametrize("name", ["bank.example", "8.8.8.8", "localhost.example"])
def test_whoever_steals_its_key_can_stand_in_for_no_site_of_the_internet(tmp_path: Path, name: str) -> None:
    authority, key = load_web_authority(tmp_path), new_key()
    forged = authority.issue("x", key.public_key(), days=9, is_client=False, reached_as=[name])
    path = tmp_path / "forged.pem"
    path.write_bytes(key_pem(key) + certificate_pem(forged).encode())
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(path, tmp_path / AUTHORITY_FILE, name)


def test_it_stays_while_it_fits_and_is_made_anew_for_other_names(tmp_path: Path) -> None:
    path = ensure_web_certificate(tmp_path, NAMES)
    first = path.read_bytes()
    assert ensure_web_certificate(tmp_path, list(reversed(NAMES))).read_bytes() == first
    other = ensure_web_certificate(tmp_path, [*NAMES, "10.0.0.3"]).read_bytes()
    assert other != first
    path.write_bytes(other[:100])
    assert ensure_web_certificate(tmp_path, NAMES).read_bytes() not in (first, other[:100])


@pytest.mark.parametrize(("days_on", "is_renewed"), [(540, False), (560, True), (800, True)])
def test_it_is_renewed_in_the_last_quarter_of_its_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days_on: int, is_renewed: bool
) -> None:
    first = ensure_web_certificate(tmp_path, NAMES).read_bytes()

    class Later(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.now(tz) + dt.timedelta(days=days_on)

    class Clock:
        UTC = dt.UTC
        datetime = Later

    monkeypatch.setattr(web, "dt", Clock)
    assert (ensure_web_certificate(tmp_path, NAMES).read_bytes() != first) is is_renewed


def test_one_of_another_authority_is_made_anew(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    for folder in (mine, others):
        folder.mkdir()
    foreign = ensure_web_certificate(others, NAMES).read_bytes()
    load_web_authority(mine)
    (mine / "web.pem").write_bytes(foreign)
    assert ensure_web_certificate(mine, NAMES).read_bytes() != foreign


def test_it_is_not_the_authority_of_the_door(tmp_path: Path) -> None:
    assert load_web_authority(tmp_path).der != load_authority(tmp_path, "door").der


def test_who_listens_on_loopback_is_reached_by_its_names_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reached_as("127.0.0.1") == reached_as("localhost") == ["localhost", "127.0.0.1", "::1"]


def test_who_listens_on_a_network_is_reached_by_the_names_and_addresses_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Studio.example")
    monkeypatch.setattr(web, "local_name", lambda: "Studio.local")
    monkeypatch.setattr(web, "own_address", lambda: "192.168.1.7")
    loopback = ["localhost", "127.0.0.1", "::1"]
    assert own_label() == "studio"
    assert reached_as("0.0.0.0") == [*loopback, "studio.local", "studio", "192.168.1.7"]
    assert reached_as("10.1.2.3") == [*loopback, "studio.local", "studio", "192.168.1.7", "10.1.2.3"]
    monkeypatch.setattr(web, "own_address", lambda: "203.0.113.9")
    assert "203.0.113.9" not in reached_as("0.0.0.0")  # its authority may not sign for it
