"""Bytes per second of kept prefixes between two hosts: through the door, in TLS, beside plain TCP with the same words,
and beside sockets of the standard library alone, plain and in TLS.

Whoever sends, the door and its Redis are processes of their own; who reads is this one. All are on one machine and
share its cores and its loopback, which no two Macs do.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from gateway.door.authority import load_authority, write_door_certificate
from gateway.door.door import server_context
from gateway.door.folder import DoorFolder
from shared.cache_door import BY_DOOR, CACHE
from shared.config import Settings
from shared.grants import issue
from shared.membership import door_context, read_membership, with_membership, write_membership
from shared.redis_server import RedisServer
from shared.seal import HostKey, host_keys
from tests.bench.report import Table
from tests.support.door import OpenedDoor
from tests.support.processes import free_port, running, wait_until
from tests.support.sealed import SECRET
from worker.cache_files.peers import Peers, connecting
from worker.cache_files.protocol import MAX_PROBE_BYTES, MAX_QUESTION_BYTES, PIECE_BYTES, PROBE, Channel
from worker.cache_files.server import FileServer
from worker.host.lending import Lender

_PROBES = 16  # of 8 MB each, one behind another on one connection
_ROUNDS = 5
_STUDIO, _LENDER, _READER = "studio", "mac2", "mac3"
_SPAWN = multiprocessing.get_context("spawn")

Receive = Callable[[], int]  # the bytes that came


def measure_door(folder: Path) -> Table:
    """Each way in turn, round after round, so that whatever else the machine does meets all of them."""
    with contextlib.ExitStack() as stack:
        ways = _ways(folder, stack)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_ROUNDS):
            for name, receive in ways.items():
                began_s = time.perf_counter()
                nbytes = receive()
                rates[name].append(nbytes / (time.perf_counter() - began_s))
    table = Table(
        title=f"Kept prefixes between two hosts of one machine, {_PROBES * MAX_PROBE_BYTES >> 20} MB at a time",
        head=("way", "MB/s", "of plain TCP", "of bare TLS"),
    )
    plain, bare = median(rates["files, plain TCP"]), median(rates["TLS of the standard library"])
    for name, found in rates.items():
        table.add(name, f"{median(found) / 1e6:,.0f}", f"{median(found) / plain:.2f}", f"{median(found) / bare:.2f}")
    table.notes.append(f"{os.cpu_count()} cores for reader, door, lender and Redis; medians of {_ROUNDS} rounds")
    return table


def _ways(folder: Path, stack: contextlib.ExitStack) -> dict[str, Receive]:
    server = stack.enter_context(RedisServer())
    studio = Settings(state_dir=folder / _STUDIO, redis_url=server.url, secret=SECRET)
    door = OpenedDoor(studio, server, DoorFolder(studio))
    door.port = stack.enter_context(_opened(studio, door.folder))
    lender, reader = _join(door, folder / _LENDER), _join(door, folder / _READER)
    at_port = stack.enter_context(_process(_lend_at_an_address, host_keys(lender, _LENDER).own))
    stack.enter_context(_process(_lend_through_the_door, lender, _LENDER))
    stack.enter_context(_process(_lend_through_the_door, studio, _STUDIO))
    certificate = write_door_certificate(door.folder.path, load_authority(door.folder.path, "door"))
    hosts_ca = load_authority(door.folder.path, "hosts").pem
    plain_port = stack.enter_context(_process(_send_bare, None, ""))
    tls_port = stack.enter_context(_process(_send_bare, certificate, hosts_ca))
    membership = read_membership(reader.state_dir)
    assert membership is not None
    context = door_context(reader.state_dir, membership, CACHE)
    own, shared = host_keys(lender, _LENDER).own, host_keys(studio, _STUDIO).own
    return {
        "TCP of the standard library": lambda: _receive_bare(plain_port, None),
        "TLS of the standard library": lambda: _receive_bare(tls_port, context),
        "files, plain TCP": lambda: _probe(reader, own, f"127.0.0.1:{at_port}"),
        "files, through the door, from the sharing Mac": lambda: _probe(reader, shared, BY_DOOR),
        "files, through the door, between two that joined": lambda: _probe(reader, own, BY_DOOR),
    }


def _join(door: OpenedDoor, state: Path) -> Settings:
    """Of a Mac that is called like its folder."""
    joined = door.join(state, state.name)
    write_membership(state, joined)
    return with_membership(Settings(state_dir=state), joined)


def _probe(settings: Settings, lender: HostKey, address: str) -> int:
    """With the words, codes and connections that a fetch has."""
    peers = Peers(settings.state_dir, connecting(settings))
    grant = issue(lender, reader=_READER, address=address, tokens=0, now_s=time.time())
    channel = peers._open(grant)
    with channel.stream:
        nbytes = sum(_receive(channel) for _ in range(_PROBES))
    peers.close()
    return nbytes


def _receive(channel: Channel) -> int:
    channel.say([PROBE, MAX_PROBE_BYTES])
    _, size = channel.hear(MAX_QUESTION_BYTES)
    return sum(len(piece) for piece in channel.receive_data(size))


def _receive_bare(port: int, context: ssl.SSLContext | None) -> int:
    stream = socket.create_connection(("127.0.0.1", port))
    with context.wrap_socket(stream) if context is not None else stream as stream:
        buffer = bytearray(PIECE_BYTES)
        nbytes = 0
        while count := stream.recv_into(buffer):
            nbytes += count
        return nbytes


@contextlib.contextmanager
def _opened(settings: Settings, folder: DoorFolder) -> Iterator[int]:
    """The port of a door as `up` starts it."""
    names = {"STATE_DIR": str(settings.state_dir), "SECRET": settings.secret, "DOOR_LISTEN": "127.0.0.1"}
    environment = {f"MLX_GATEWAY_{name}": value for name, value in names.items()}
    environment |= {"REDIS_URL": settings.redis_url, "MLX_GATEWAY_DOOR_PORT": str(free_port())}
    settings.state_dir.mkdir(parents=True)
    log = settings.state_dir / "door.log"
    with running("-m", "gateway.door", log=log, env=environment):
        yield wait_until(folder.door, "the door is open").port


# -- processes of their own -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(run: Callable[..., None], *arguments: object) -> Iterator[int]:
    """The port that it says."""
    mine, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=run, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield int(mine.recv())
    finally:
        mine.send("end")
        process.join(5.0)
        process.kill()


def _lend_at_an_address(parent: Connection, key: HostKey) -> None:
    server = FileServer(Path(), key)
    parent.send(server.listen("127.0.0.1", 0))
    parent.recv()
    server.close()


def _lend_through_the_door(parent: Connection, settings: Settings, name: str) -> None:
    lender = Lender(settings, host_keys(settings, name).own)
    lender.start()
    wait_until(lambda: lender.address == BY_DOOR, "it lends through the door")
    parent.send(0)
    parent.recv()
    lender.close()


def _send_bare(parent: Connection, certificate: Path | None, hosts_ca: str) -> None:
    context = server_context(certificate, hosts_ca) if certificate is not None else None
    piece = bytes(PIECE_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        parent.send(listener.getsockname()[1])
        listener.settimeout(0.1)
        while not parent.poll():
            with contextlib.suppress(TimeoutError):
                stream, _ = listener.accept()
                stream.settimeout(None)
                with context.wrap_socket(stream, server_side=True) if context is not None else stream as stream:
                    for _ in range(_PROBES * MAX_PROBE_BYTES // PIECE_BYTES):
                        stream.sendall(piece)
