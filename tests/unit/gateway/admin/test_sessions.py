"""A session is opened with a key and ends with it; what only looks like one is none, nor is another page's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from gateway.http.auth import check_own_page, sessions_of
from gateway.keys.check import SESSION_S, KeyCheck
from gateway.keys.file import KeyFile
from gateway.keys.holder import OWNER
from gateway.keys.making import Wish, add_key, revoke_key
from shared.errors import AuthenticationError, PermissionDeniedError

OWNERS = "schlüssel"


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path)


def test_the_owners_and_everybody_elses_keys_open_sessions(keys: KeyFile) -> None:
    key, _ = add_key(keys, Wish(name="screen", role="viewer"))
    check = KeyCheck(OWNERS, keys, b"secret")
    for spelled in (OWNERS.encode(), OWNERS.encode("latin-1")):
        assert check.session_holder(check.open_session([spelled])) == OWNER
    session = check.open_session([key.encode()])
    assert check.session_holder(session).role == "viewer"
    assert key not in session
    assert KeyCheck(OWNERS, keys, b"secret").session_holder(session).name == "screen", "every gateway of the fleet"
    revoke_key(keys, "screen")
    with pytest.raises(AuthenticationError):
        check.session_holder(session)


def test_a_session_ends(keys: KeyFile) -> None:
    check = KeyCheck(OWNERS, keys, b"secret")
    session = check.open_session([OWNERS.encode()], now_s=1000.0)
    assert check.session_holder(session, now_s=1000.0 + SESSION_S - 1) == OWNER
    for now_s in (1000.0 + SESSION_S + 1, 0.0):
        with pytest.raises(AuthenticationError):
            check.session_holder(session, now_s=now_s)


@pytest.mark.parametrize(
    "forge",
    [
        lambda session: "",
        lambda session: session[:-1] + ("0" if session[-1] != "0" else "1"),
        lambda session: f"{int(time.time()) + 999:x}.{session.partition('.')[2]}",
        lambda session: session.partition(".")[0] + ".",
        lambda session: "zz." + session.partition(".")[2],
        lambda session: session + "é",
        lambda session: "-1" + session,
        lambda session: "f" * 10_000,
        lambda session: "1_0.a",
    ],
)
def test_a_forged_one_is_none(keys: KeyFile, forge: Any) -> None:
    check = KeyCheck(OWNERS, keys, b"secret")
    with pytest.raises(AuthenticationError):
        check.session_holder(forge(check.open_session([OWNERS.encode()])))


def test_one_of_another_fleet_or_of_a_changed_key_is_none(keys: KeyFile) -> None:
    session = KeyCheck(OWNERS, keys, b"other").open_session([OWNERS.encode()])
    old = KeyCheck("old", keys, b"secret").open_session([b"old"])
    for each in (session, old):
        with pytest.raises(AuthenticationError):
            KeyCheck(OWNERS, keys, b"secret").session_holder(each)


def scope(method: str, **headers: str) -> dict[str, Any]:
    pairs = {"host": "mini.local:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {"method": method, "headers": [(name.encode(), value.encode()) for name, value in pairs.items()]}


@pytest.mark.parametrize(
    ("method", "headers", "is_own"),
    [
        ("GET", {}, True),
        ("GET", {"sec_fetch_site": "same-origin"}, True),
        ("GET", {"sec_fetch_site": "none"}, True),
        ("GET", {"sec_fetch_site": "same-site"}, False),
        ("GET", {"sec_fetch_site": "cross-site"}, False),
        ("GET", {"origin": "http://mini.local:3000"}, False),
        ("POST", {"origin": "http://mini.local:8080"}, True),
        ("POST", {"origin": "https://mini.local:8080"}, True),
        ("POST", {"origin": "http://mini.local:3000"}, False),
        ("POST", {"origin": "http://localhost:8080"}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "http://mini.local:8080", "sec_fetch_site": "cross-site"}, False),
        ("POST", {"sec_fetch_site": "same-origin"}, True),
        ("POST", {}, False),
        ("DELETE", {}, False),
    ],
)
def test_only_the_gateways_own_page_uses_a_session(method: str, headers: dict[str, str], is_own: bool) -> None:
    if is_own:
        check_own_page(scope(method, **headers))
    else:
        with pytest.raises(PermissionDeniedError):
            check_own_page(scope(method, **headers))


def test_the_cookie_is_found_by_its_whole_name() -> None:
    assert sessions_of(scope("GET", cookie="xa=1; a=2; b=3"), "a") == ["2"]
    assert sessions_of(scope("GET", cookie="a=1"), "") == []
    assert sessions_of(scope("GET", cookie="a="), "a") == []
    assert sessions_of(scope("GET"), "a") == []


def test_a_cookie_of_the_same_name_from_elsewhere_signs_nobody_out(keys: KeyFile) -> None:
    check = KeyCheck(OWNERS, keys, b"secret")
    session = check.open_session([OWNERS.encode()])
    found = sessions_of(scope("GET", cookie=f"a=tossed; a={session}"), "a")
    assert check.session_holder(*found) == OWNER
    assert len(sessions_of(scope("GET", cookie="; ".join(["a=x"] * 5000)), "a")) < 10
    with pytest.raises(AuthenticationError):
        check.session_holder()
