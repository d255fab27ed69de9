"""Kept files go from host to host through the door: a real door with real TLS, real files without a tensor library.
That an engine takes up what it fetched is shown by `test_mlx_fetching`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shared.cache_door import BY_DOOR, decode_words, encode_words, open_door, read_line, read_through_door
from shared.config import Settings
from shared.grants import Grant, issue
from shared.membership import with_membership, write_membership
from shared.redis_server import RedisServer
from shared.seal import HostKey, derive_key, host_keys
from tests.support.door import OpenedDoor, opened_door
from tests.support.eavesdropper import Wire
from tests.support.lending import lending
from tests.support.processes import wait_until
from tests.support.sealed import SECRET
from tests.support.throttle import throttled
from worker.cache_files.catalog import SUFFIX
from worker.cache_files.file_format import FileInfo, FileWriter, Shape, check_file
from worker.cache_files.peers import Peers, connecting
from worker.cache_files.protocol import PIECE_BYTES
from worker.host.lending import Lender
from worker.prefix_cache.node import Node, tenant_seed
from worker.prefix_cache.tokens import pack_tokens

FOLDER = "a model"
SEED = tenant_seed(b"a model", "a tenant")
TAG = b"sixteen byte tag"
SPOKEN = b"what nobody on the wire may read"
TOKENS = pack_tokens(range(1000, 1256))
STUDIO = "studio"


def keep_a_file(state: Path) -> FileInfo:
    node: Node[object] = Node(Node(None, b"", seed=SEED), TOKENS)  # type: ignore[type-var]
    info = FileInfo(key=node.key, parent=b"", seed=SEED, start=0, tokens=TOKENS, is_checkpoint=True, marks={TAG: 256})
    data = SPOKEN * (3 * PIECE_BYTES // len(SPOKEN))
    shape = Shape(info=info, tensors={"keys": ("U8", (len(data),), len(data))}, states="[]")
    writer = FileWriter(shape, state / "cache" / FOLDER / f"{node.key.hex()}{SUFFIX}")
    writer.begin()
    writer.add(data)
    writer.end()
    return info


@dataclass
class Reader:
    """Of one Mac's worker."""

    settings: Settings
    name: str

    def __post_init__(self) -> None:
        self.folder = self.settings.state_dir / "cache" / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.peers = Peers(self.folder, connecting(self.settings))

    def fetch(self, grant: Grant) -> str:
        """Why it did not come; empty when it is here."""
        offer = self.peers.locate(grant, SEED, [TAG], [])
        if offer is None:
            return next(reason for reason, count in self.peers.failures.items() if count)
        arrival = self.peers.fetch(offer, offer.infos, start=0, end=256)
        wait_until(lambda: arrival.is_over, "the end of the fetch")
        return arrival.failure

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture(scope="module")
def shared_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedDoor]:
    state = tmp_path_factory.mktemp(STUDIO)
    with RedisServer() as server, opened_door(state, server, secret=SECRET) as opened:
        yield opened


@pytest.fixture
def door(shared_door: OpenedDoor) -> OpenedDoor:
    (shared_door.folder.path / "hosts.json").unlink(missing_ok=True)
    return shared_door


def member(door: OpenedDoor, state: Path, *, port: int = 0) -> Settings:
    """Of a Mac that joined, named like its folder, which reaches the door at this port."""
    joined = replace(door.join(state, state.name), port=port or door.port)
    write_membership(state, joined)
    return with_membership(Settings(state_dir=state), joined)


def key(name: str) -> HostKey:
    return derive_key(SECRET.encode(), name)


def grant(lender: str, reader: str) -> Grant:
    return issue(key(lender), reader=reader, address=BY_DOOR, tokens=256, now_s=time.time())


@contextlib.contextmanager
def lends(settings: Settings, name: str) -> Iterator[Lender]:
    keep_a_file(settings.state_dir)
    lender = Lender(settings, host_keys(settings, name).own)
    lender.start()
    try:
        wait_until(lambda: lender.address == BY_DOOR, "it lends through the door")
        yield lender
    finally:
        lender.close()


@contextlib.contextmanager
def reads(settings: Settings, name: str) -> Iterator[Reader]:
    reader = Reader(settings, name)
    try:
        yield reader
    finally:
        reader.peers.close()


def test_who_listens_on_the_wire_between_two_hosts_that_joined_hears_nothing(door: OpenedDoor, tmp_path: Path) -> None:
    with Wire(door.port) as here, Wire(door.port) as there:
        lender, reader = (
            member(door, tmp_path / "mac2", port=here.port),
            member(door, tmp_path / "mac3", port=there.port),
        )
        with lends(lender, "mac2"), reads(reader, "mac3") as mac3:
            assert mac3.fetch(grant("mac2", "mac3")) == ""
            assert [path.stat().st_size > 3 * PIECE_BYTES - 100 for path in mac3.files()] == [True]
        for wire in (here, there):
            assert len(wire.seen) > 3 * PIECE_BYTES, "all of it went by there"
            for said in (SPOKEN[:16], TOKENS[:16], TAG, FOLDER.encode()):
                assert said not in wire.seen


def test_what_goes_by_an_address_that_a_person_named_is_heard_on_the_wire(tmp_path: Path) -> None:
    """So the test above would see it."""
    keep_a_file(tmp_path / "lender")
    with lending(tmp_path / "lender", key("lender")) as (_, address), Wire(int(address.rpartition(":")[2])) as wire:
        given = replace(grant("lender", "mac3"), address=f"127.0.0.1:{wire.port}")
        with reads(Settings(state_dir=tmp_path / "mac3"), "mac3") as mac3:
            assert mac3.fetch(given) == ""
        assert SPOKEN[:16] in wire.seen


def test_the_sharing_mac_lends_to_who_joined_and_reads_from_it(door: OpenedDoor, tmp_path: Path) -> None:
    settings = member(door, tmp_path / "mac2")
    with lends(door.settings, STUDIO), reads(settings, "mac2") as mac2:
        assert mac2.fetch(grant(STUDIO, "mac2")) == ""
        assert len(mac2.files()) == 1
    (door.settings.state_dir / "cache" / FOLDER / mac2.files()[0].name).unlink()
    with lends(settings, "mac2"), reads(door.settings, STUDIO) as studio:
        assert studio.fetch(grant("mac2", STUDIO)) == ""
        assert len(studio.files()) == 1


def test_the_door_leads_nobody_in_who_has_no_grant(door: OpenedDoor, tmp_path: Path) -> None:
    lender, reader = member(door, tmp_path / "mac2"), member(door, tmp_path / "mac3")
    with lends(lender, "mac2") as lent, reads(reader, "mac3") as mac3:
        own = issue(key("mac3"), reader="mac3", address=BY_DOOR, tokens=256, now_s=time.time())
        assert mac3.fetch(replace(own, peer="mac2")) in ("gone", "refused")
        old = issue(key("mac2"), reader="mac3", address=BY_DOOR, tokens=256, now_s=0.0)
        assert mac3.fetch(old) in ("gone", "refused")
        assert mac3.files() == []
        assert lent._server.sent_bytes == 0


def test_a_host_that_lends_nothing_is_gone(door: OpenedDoor, tmp_path: Path) -> None:
    with reads(member(door, tmp_path / "mac3"), "mac3") as mac3:
        assert mac3.fetch(grant("mac2", "mac3")) == "gone"
        assert mac3.peers.rates() == {"mac2": 0.0}


def test_a_mac_without_a_door_cannot_be_led_through_one(tmp_path: Path) -> None:
    with reads(Settings(state_dir=tmp_path / "alone"), "alone") as alone:
        assert alone.fetch(grant("mac2", "alone")) == "gone"


def test_a_revoked_host_neither_lends_nor_reads_any_more(door: OpenedDoor, tmp_path: Path) -> None:
    lender, reader = member(door, tmp_path / "mac2"), member(door, tmp_path / "mac3")
    with lends(lender, "mac2") as lent, reads(reader, "mac3") as mac3:
        offer = mac3.peers.locate(grant("mac2", "mac3"), SEED, [TAG], [])
        assert offer is not None
        door.folder.revoke("mac2")
        wait_until(lambda: not lent.address, "it lends no more")
        arrival = mac3.peers.fetch(offer, offer.infos, start=0, end=256)
        wait_until(lambda: arrival.is_over, "the end of the fetch")
        assert arrival.failure == "gone"
        assert mac3.files() == []
        door.folder.revoke("mac3")
        wait_until(lambda: not _is_let_in(reader), "it is out")


def _is_let_in(settings: Settings) -> bool:
    try:
        with open_door(settings) as stream:
            stream.sendall(encode_words(read="nobody"))
            return bool(read_line(stream))
    except OSError:
        return False


def test_nobody_lends_under_another_name_or_takes_anothers_reader(door: OpenedDoor, tmp_path: Path) -> None:
    lender, thief = member(door, tmp_path / "mac2"), member(door, tmp_path / "mac3")
    with open_door(thief) as stream:
        stream.sendall(encode_words(lend="mac2"))
        assert "refused" in decode_words(read_line(stream))
    with open_door(lender) as told:
        told.sendall(encode_words(lend="mac2"))
        assert decode_words(read_line(told)) == {"lending": True}
        with open_door(door.settings) as reader, open_door(thief) as stream, open_door(lender) as taker:
            reader.sendall(encode_words(read="mac2"))
            code = decode_words(read_line(told))["reader"]
            stream.sendall(encode_words(take=code))
            assert "refused" in decode_words(read_line(stream))
            taker.sendall(encode_words(take=code) + b"hello")
            assert decode_words(read_line(reader)) == {"taken": True}
            assert reader.recv(5) == b"hello"


def test_a_lender_that_does_not_come_is_not_waited_for(
    door: OpenedDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.door.caches._TAKE_S", 0.05)
    settings = member(door, tmp_path / "mac2")
    with open_door(settings) as told:
        told.sendall(encode_words(lend="mac2"))
        assert decode_words(read_line(told)) == {"lending": True}
        with pytest.raises(ConnectionRefusedError, match="did not come in time"):
            read_through_door(door.settings, "mac2")


def test_a_lender_finds_the_door_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.host.door_lending._AGAIN_S", 0.05)
    state = tmp_path / STUDIO
    with RedisServer() as server, contextlib.ExitStack() as stack:
        with opened_door(state, server, secret=SECRET) as door:
            lender = stack.enter_context(lends(door.settings, STUDIO))
        wait_until(lambda: not lender.address, "it lends no more")
        with opened_door(state, server, secret=SECRET):
            wait_until(lambda: lender.address == BY_DOOR, "it lends again")


def test_what_a_request_fetches_from_a_host_that_leaves_may_be_taken_over_meanwhile(tmp_path: Path) -> None:
    """Each has a file of its own until it is whole: the later would cut the earlier off."""
    keep_a_file(tmp_path / "lender")
    with lending(tmp_path / "lender", key("lender")) as (_, address), throttled(address, 4e6) as slow:
        with reads(Settings(state_dir=tmp_path / "mac3"), "mac3") as mac3:
            offer = mac3.peers.locate(replace(grant("lender", "mac3"), address=slow), SEED, [TAG], [])
            assert offer is not None
            arrival = mac3.peers.fetch(offer, offer.infos, start=0, end=256)
            wait_until(lambda: arrival.got_bytes > PIECE_BYTES, "a part of it")
            leave = issue(key("lender"), reader="mac3", address=address, tokens=0, now_s=time.time(), is_handover=True)
            mac3.peers.take_over(leave, most_bytes=1 << 30, part=0, parts=1)
            wait_until(lambda: mac3.peers.has_taken_over and arrival.is_over, "both have come")
            assert arrival.failure == ""
            (path,) = mac3.files()
            check_file(path)
