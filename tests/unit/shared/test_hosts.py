from __future__ import annotations

import pytest

from shared.hosts import (
    Authority,
    is_loopback,
    is_loopback_address,
    matches,
    parse_authority,
    parse_host_pattern,
    parse_origin_pattern,
)


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("localhost", "localhost", None),
        ("LocalHost.:8080", "localhost", 8080),
        ("[::1]:80", "::1", 80),
        ("[FD00::A]", "fd00::a", None),
        ("mac-studio.local:1", "mac-studio.local", 1),
    ],
)
def test_host_and_port(text: str, name: str, port: int | None) -> None:
    assert parse_authority(text) == Authority(name=name, port=port)


@pytest.mark.parametrize(
    "text", ["", ".", ":80", "a b", "a,b", "user@localhost", "::1", "[::1", "a:b", "a:", "a/b", "a\n", "[]", "löcal"]
)
def test_what_is_no_host(text: str) -> None:
    assert parse_authority(text) is None


@pytest.mark.parametrize("name", ["localhost", "app.localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine(name: str) -> None:
    assert is_loopback(name)
    assert is_loopback_address(name) == (not name.endswith("localhost"))


@pytest.mark.parametrize(
    "name",
    ["evil.example", "localhost.evil.example", "notlocalhost", "192.168.1.2", "0.0.0.0", "::", "127.0.0.1.nip.io"],
)
def test_elsewhere(name: str) -> None:
    assert not is_loopback(name)


def test_patterns_of_hosts() -> None:
    assert matches("a.lan", "a.lan")
    assert not matches("b.a.lan", "a.lan")
    assert matches("b.a.lan", "*.a.lan")
    assert not matches("a.lan", "*.a.lan")
    assert not matches("ba.lan", "*.a.lan")
    assert matches("anything", "*")
    assert parse_host_pattern("Mac.LAN.") == "mac.lan"
    assert parse_host_pattern("*.Lan") == "*.lan"
    assert parse_host_pattern("[fd00::1]") == "fd00::1"
    assert [parse_host_pattern(text) for text in ("a:80", "http://a", "a/b", "*a", "")] == [None] * 5


def test_patterns_of_origins() -> None:
    assert parse_origin_pattern("HTTPS://Chat.Example/") == "https://chat.example"
    assert parse_origin_pattern("vscode-webview://*") == "vscode-webview://*"
    assert [parse_origin_pattern(text) for text in ("null", "*")] == ["null", "*"]
    assert [parse_origin_pattern(text) for text in ("chat.example", "https://a/b", "://a", "https://", "")] == [
        None
    ] * 5
