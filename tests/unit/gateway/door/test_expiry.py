"""When certificates of sharing end, as metrics say it."""

from __future__ import annotations

import time
from pathlib import Path

from gateway.door.authority import HOST_DAYS, load_authority, write_door_certificate
from gateway.door.expiry import CertificateCollector, expiries
from gateway.door.folder import DoorFolder, JoinedHost
from shared.config import Settings

DAY_S = 86400.0


def shared(state_dir: Path) -> DoorFolder:
    folder = DoorFolder(Settings(state_dir=state_dir))
    folder.make()
    write_door_certificate(folder.path, load_authority(folder.path, "door"))
    return folder


def host(name: str, joined_at_s: float, *, is_revoked: bool = False) -> JoinedHost:
    return JoinedHost(
        name=name, generation=1, serial="1", password_digest="d", joined_at_s=joined_at_s, is_revoked=is_revoked
    )


def test_nothing_is_told_where_nothing_is_shared(tmp_path: Path) -> None:
    assert expiries(DoorFolder(Settings(state_dir=tmp_path))) == {}


def test_the_door_its_authority_and_every_mac_that_joined_are_told(tmp_path: Path) -> None:
    folder, now_s = shared(tmp_path), time.time()
    folder.note(host("studio", now_s - 360 * DAY_S))
    folder.note(host("gone", now_s, is_revoked=True))
    found = expiries(folder)
    assert set(found) == {"door", "door-ca", "studio"}
    assert 4.9 * DAY_S < found["studio"] - now_s < 5.1 * DAY_S
    assert found["door"] - now_s > HOST_DAYS * DAY_S
    (family,) = CertificateCollector(folder).collect()
    assert {sample.labels["name"] for sample in family.samples} == set(found)


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    folder = shared(tmp_path)
    (folder.path / "other.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    (folder.path / "hosts.json").write_text("{")
    assert set(expiries(folder)) == {"door", "door-ca"}
