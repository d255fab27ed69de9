"""Which hosts and pages may come in: the whole table."""

from __future__ import annotations

import pytest

from gateway.http.visitors import Visitors
from shared.config import load_settings
from shared.errors import InvalidRequestError, PermissionDeniedError

NOBODY = Visitors.of(load_settings(environ={}))
LISTED = Visitors.of(
    load_settings(
        environ={
            "MLX_GATEWAY_ALLOWED_HOSTS": "host.docker.internal, *.lan",
            "MLX_GATEWAY_ALLOWED_ORIGINS": "https://chat.example:443,http://[fd00::1]:3000,app://*,https://*.ours.example",
        }
    )
)
KEYED = Visitors.of(load_settings(environ={"MLX_GATEWAY_API_KEY": "k", "MLX_GATEWAY_HOST": "10.0.0.5"}))

HERE = ["localhost", "LOCALHOST:8080", "localhost.:8080", "a.b.localhost", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080"]
ELSEWHERE = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "192.168.1.2:8080",
    "0.0.0.0:8080",
    "[::]:8080",
    "localhost@evil.example",
    "localhost,evil.example",
    "",
    "::1",
]


@pytest.mark.parametrize("host", HERE)
def test_names_of_this_machine_are_served(host: str) -> None:
    NOBODY.check_host([host], http_version="1.1")


@pytest.mark.parametrize("host", ELSEWHERE)
def test_other_names_are_refused_with_the_setting_that_allows_them(host: str) -> None:
    with pytest.raises(PermissionDeniedError, match="MLX_GATEWAY_ALLOWED_HOSTS"):
        NOBODY.check_host([host], http_version="1.1")
    KEYED.check_host([host], http_version="1.1")


@pytest.mark.parametrize("host", ["host.docker.internal:8080", "Mac.LAN", "a.b.lan.:1"])
def test_hosts_that_the_settings_name_are_served(host: str) -> None:
    LISTED.check_host([host], http_version="1.1")


@pytest.mark.parametrize("hosts", [[], ["localhost", "evil.example"], ["localhost", "localhost"]])
def test_a_request_has_one_host(hosts: list[str]) -> None:
    for visitors in (NOBODY, KEYED):
        with pytest.raises(InvalidRequestError, match="Host"):
            visitors.check_host(hosts, http_version="1.1")


def test_only_the_http_that_no_browser_speaks_may_leave_the_host_out() -> None:
    NOBODY.check_host([], http_version="1.0")
    with pytest.raises(PermissionDeniedError):
        NOBODY.check_host(["evil.example"], http_version="1.0")


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://LocalHost.:3000",
        "http://app.localhost",
        "http://127.0.0.1:5173",
        "http://[::1]:3000",
        "tauri://localhost",
    ],
)
def test_pages_of_this_machine_may_come_in(origin: str) -> None:
    for visitors in (NOBODY, LISTED, KEYED):
        visitors.check_origin([origin], "127.0.0.1:8080")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost.evil.example",
        "https://evil.example:8080",
        "null",
        "file://",
        "",
        "localhost",
        "http://localhost@evil.example",
        "http://localhost, https://evil.example",
        "chrome-extension://abcdefghijklmnop",
        "javascript://localhost",
        "data://localhost",
        "http://.localhost",
        "https://chat.example.evil.example",
        "https://ours.example",
        "https://chat.example:444",
    ],
)
def test_other_pages_are_refused_with_the_setting_that_allows_them(origin: str) -> None:
    for visitors in (NOBODY, LISTED, KEYED):
        with pytest.raises(PermissionDeniedError, match="MLX_GATEWAY_ALLOWED_ORIGINS"):
            visitors.check_origin([origin], "127.0.0.1:8080")
        with pytest.raises(PermissionDeniedError):
            visitors.check_origin(["http://localhost", origin], "127.0.0.1:8080")


@pytest.mark.parametrize(
    "origin", ["https://chat.example", "http://[fd00::1]:3000", "app://obsidian.md", "https://a.b.ours.example"]
)
def test_pages_that_the_settings_name_may_come_in(origin: str) -> None:
    LISTED.check_origin([origin], "127.0.0.1:8080")


def test_a_page_may_be_allowed_that_has_no_name_and_so_may_all() -> None:
    Visitors(allowed_origins=["null"]).check_origin(["null"], "localhost")
    for origin in ("https://evil.example", "null", ""):
        Visitors(allowed_origins=["*"]).check_origin([origin], "localhost")


@pytest.mark.parametrize("origins", [["http://localhost"] * 2, ["http://localhost", "http://127.0.0.1"]])
def test_a_request_has_one_origin_at_most(origins: list[str]) -> None:
    for visitors in (NOBODY, LISTED, KEYED):
        with pytest.raises(InvalidRequestError, match="Origin"):
            visitors.check_origin(origins, "localhost")


@pytest.mark.parametrize(
    ("origins", "hosts", "may_read"),
    [
        (["http://localhost"], ["localhost"], True),
        (["HTTP://LOCALHOST:3000"], ["127.0.0.1:8080"], True),
        (["http://[::1]:3000"], ["localhost.:8080"], True),
        (["http://localhost", "https://evil.example"], ["localhost"], False),
        (["https://evil.example", "http://localhost"], ["localhost"], False),
        (["http://localhost", "http://localhost"], ["localhost"], False),
        (["http://localhost"], ["localhost", "evil.example"], False),
        (["http://localhost"], ["evil.example"], False),
        (["http://localhost, https://evil.example"], ["localhost"], False),
        (["http://localhost https://evil.example"], ["localhost"], False),
        (["http://localhost.."], ["localhost"], False),
        (["null"], ["localhost"], False),
        ([""], ["localhost"], False),
    ],
)
def test_only_a_page_that_may_come_in_may_read_what_is_answered(
    origins: list[str], hosts: list[str], may_read: bool
) -> None:
    assert NOBODY.may_read(origins, hosts) is may_read


def test_a_page_that_came_by_the_same_host_is_the_gateways_own() -> None:
    KEYED.check_origin(["http://10.0.0.5:8080"], "10.0.0.5:8080")
    LISTED.check_origin(["https://mac.lan"], "mac.lan")
    LISTED.check_origin(["https://mac.lan"], "mac.lan:443")
    for origin in ("http://10.0.0.5", "http://10.0.0.5:8081", "http://10.0.0.6:8080"):
        with pytest.raises(PermissionDeniedError):
            KEYED.check_origin([origin], "10.0.0.5:8080")
