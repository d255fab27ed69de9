"""Frames reach gateways in order, in one write each, and survive what Redis does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from shared import keys, wire
from shared.events import TextDelta
from shared.redis_server import RedisServer
from shared.wire import FrameEntry
from tests.support.names import NAMES
from tests.support.processes import free_port, wait_until
from tests.support.sealed import KEYRING, frame_seal
from tests.support.worker import TestGateway
from worker.serving import publisher as publishing
from worker.serving.publisher import Publisher

WORKER, EPOCH = "h.w.e", "e"


def entry(text: str, seq: int = 0, request_id: str = "r1") -> FrameEntry:
    return FrameEntry(request_id=request_id, attempt=1, seq=seq, token_ids=(seq,), events=(TextDelta(text=text),))


@contextmanager
def publisher_at(url: str, **options: object) -> Iterator[Publisher]:
    client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=1)
    publisher = Publisher(client, NAMES, KEYRING.of_worker(WORKER), worker=WORKER, epoch=EPOCH, **options)  # type: ignore[arg-type]
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.close()
        client.close()


def seqs(gateway: TestGateway) -> list[int]:
    return [frame.seq for _, frame in gateway.frames if frame.entries]


def logged(client: redis.Redis, gateway: str = "gw1") -> list[bytes]:
    return [row[0] for row in client.xrange(NAMES.frame_log(WORKER, gateway))]


def test_a_frame_reaches_the_gateway_and_its_log(redis_url: str) -> None:
    with TestGateway(redis_url) as gateway, publisher_at(redis_url) as publisher:
        publisher.publish("gw1", [entry("a"), entry("b", request_id="r2")])
        wait_until(lambda: gateway.frames, "a frame")
        frame = next(frame for _, frame in gateway.frames if frame.entries)
        assert (frame.worker, frame.epoch, frame.seq, len(frame.entries)) == (WORKER, EPOCH, 1, 2)
        [(log_id, fields)] = gateway.client.xrange(NAMES.frame_log(WORKER, "gw1"))
        assert log_id == b"1-0"
        assert wire.decode_frame(frame_seal(WORKER, "gw1").open(fields[b"f"])) == frame
        assert 0 < gateway.client.ttl(NAMES.frame_log(WORKER, "gw1")) <= keys.LOG_TTL_S


def test_frames_are_numbered_per_gateway_from_one(redis_url: str) -> None:
    with TestGateway(redis_url) as one, TestGateway(redis_url, "gw2") as two, publisher_at(redis_url) as publisher:
        for number in range(3):
            publisher.publish("gw1", [entry("x", number)])
        publisher.publish("gw2", [entry("y")])
        wait_until(lambda: len(seqs(one)) == 3 and len(seqs(two)) == 1, "all frames")
        assert (seqs(one), seqs(two)) == ([1, 2, 3], [1])


def test_the_log_keeps_only_the_last_frames(redis_url: str) -> None:
    with TestGateway(redis_url) as gateway, publisher_at(redis_url) as publisher:
        for number in range(3 * keys.LOG_MAXLEN):
            publisher.publish("gw1", [entry("x", number)])
        wait_until(lambda: len(seqs(gateway)) == 3 * keys.LOG_MAXLEN, "all frames")
        ids = logged(gateway.client)
        assert keys.LOG_MAXLEN <= len(ids) < 2 * keys.LOG_MAXLEN
        assert ids[-1] == f"{3 * keys.LOG_MAXLEN}-0".encode()


def test_a_log_that_holds_something_else_is_made_anew(redis_url: str) -> None:
    with TestGateway(redis_url) as gateway, publisher_at(redis_url) as publisher:
        name = NAMES.frame_log(WORKER, "gw1")
        gateway.client.set(name, "x")
        for number in range(6):
            publisher.publish("gw1", [entry("x", number)])
            wait_until(lambda number=number: len(seqs(gateway)) > number, "the frame")  # type: ignore[misc]
            wait_until(lambda: publisher.unanswered == 0, "its replies")
        assert seqs(gateway) == list(range(1, 7))
        assert logged(gateway.client)[-1] == b"6-0"
        assert len(logged(gateway.client)) >= 4
        assert 0 < gateway.client.ttl(name) <= keys.LOG_TTL_S


def test_a_gateway_with_work_hears_a_beat_that_repeats_the_last_number(redis_url: str) -> None:
    with TestGateway(redis_url) as gateway, publisher_at(redis_url) as publisher:
        publisher.add_work("gw1")
        publisher.publish("gw1", [entry("a")])
        wait_until(lambda: sum(not f.entries for _, f in gateway.frames) >= 2, "two beats")
        beats = [(at, f.seq) for at, f in gateway.frames if not f.entries]
        assert beats[-1][1] == 1
        assert beats[-1][0] - beats[-2][0] > 0.25


def test_work_that_comes_while_nobody_is_owed_anything_gets_its_beats_at_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_IDLE_S", 3600.0)
    with TestGateway(redis_url) as gateway, publisher_at(redis_url) as publisher:
        wait_until(lambda: publisher._is_idle, "it rests")
        publisher.add_work("gw1")
        wait_until(lambda: len(gateway.frames) >= 2, "beats")
        publisher.remove_work("gw1")
        wait_until(lambda: publisher._is_idle, "it rests again", deadline_s=30)
        publisher.publish("gw1", [entry("a")])
        wait_until(lambda: not publisher._outbox.owed, "its answers are read")


def test_beats_go_on_after_the_last_frame_so_that_its_loss_shows(redis_url: str) -> None:
    with publisher_at(redis_url) as publisher:
        publisher.publish("gw1", [entry("lost: nobody listens")])
        with TestGateway(redis_url) as gateway:
            wait_until(lambda: gateway.frames, "a beat")
            assert gateway.frames[0][1].seq == 1


def published(client: redis.Redis) -> int:
    return int(client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0))


def test_a_gateway_that_listens_no_more_is_reported_once(redis_url: str) -> None:
    gone: list[str] = []
    with publisher_at(redis_url, gateway_gone=gone.append, gone_after_s=0.3) as publisher:
        publisher.add_work("gw1")
        publisher.publish("gw1", [entry("a")])
        wait_until(lambda: gone, "a report")
        publisher.publish("gw1", [entry("b", 1)])
        with redis.Redis.from_url(redis_url) as client:
            before = published(client)
            wait_until(lambda: published(client) >= before + 3, "two more beats, which must not report it again")
        assert gone == ["gw1"]


def test_a_gateway_that_reconnects_is_not_reported(redis_url: str) -> None:
    gone: list[str] = []
    with publisher_at(redis_url, gateway_gone=gone.append, gone_after_s=1.5) as publisher:
        publisher.add_work("gw1")
        publisher.publish("gw1", [entry("a")])
        with TestGateway(redis_url) as gateway:
            wait_until(lambda: len(gateway.frames) > 2, "beats")
        assert gone == []


def test_silence_that_a_publisher_slept_through_hardly_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(publishing, "time", SimpleNamespace(monotonic=lambda: now_s))
    publisher = Publisher(redis.Redis(), NAMES, KEYRING.of_worker(WORKER), worker=WORKER, epoch=EPOCH)
    gateway = publishing._Gateway("gw1", "channel", frame_seal(WORKER, "gw1"))
    for gap_s in (0.0, 0.5, 8.0, 0.5):
        now_s += gap_s
        publisher._note_receivers(gateway, 0)
    assert gateway.silent_s == 0.5 + 2 * publishing.BEAT_S + 0.5
    publisher._note_receivers(gateway, 1)
    assert gateway.silent_s == 0.0


def test_no_frame_is_lost_when_the_connection_is_cut_again_and_again(redis_url: str) -> None:
    with TestGateway(redis_url) as gateway, publisher_at(redis_url) as publisher:
        cutter, cuts = redis.Redis.from_url(redis_url), 0
        for number in range(1000):
            publisher.publish("gw1", [entry(f"{number} ", number)])
            if number % 40 == 20:
                cuts += cut_publisher(cutter)
            time.sleep(0.0005)
        wait_until(lambda: len(gateway.events()) == 1000, "every event")
        assert gateway.entry_seqs() == list(range(1000))
        assert (publisher.dropped_frames, cuts > 10) == (0, True)
        cutter.close()


def cut_publisher(client: redis.Redis) -> int:
    publishing = [other["id"] for other in client.client_list() if other["cmd"] in ("publish", "xadd", "expire")]
    return sum(client.client_kill_filter(_id=number) for number in publishing)


def test_frames_that_redis_never_read_and_those_of_its_absence_arrive_when_it_is_back(
    redis_server: RedisServer,
) -> None:
    with TestGateway(redis_server.url) as gateway, publisher_at(redis_server.url) as publisher:
        publisher.publish("gw1", [entry("before")])
        wait_until(lambda: gateway.frames and not publisher.unanswered, "the first frame and its replies")
        os.kill(redis_server.process.pid, signal.SIGSTOP)
        for number in range(1, 10):
            publisher.publish("gw1", [entry("written, never read", number)])
        redis_server.process.kill()
        redis_server.process.wait()
        for number in range(10, 20):
            publisher.publish("gw1", [entry("during", number)])
        redis_server.restart()
        publisher.publish("gw1", [entry("after", 20)])
        # What was published before the gateway was back is in the log, from which a gateway repairs.
        with redis.Redis.from_url(redis_server.url) as client:
            # So is what the first Redis had acknowledged: it may have reached nobody.
            wait_until(lambda: len(logged(client)) == 21, "the log")
            assert logged(client) == [f"{seq}-0".encode() for seq in range(1, 22)]
            wait_until(lambda: client.ttl(NAMES.frame_log(WORKER, "gw1")) > 0, "a log that goes by itself")


def test_a_frozen_redis_holds_up_the_engine_for_a_moment_only(redis_server: RedisServer) -> None:
    with TestGateway(redis_server.url) as gateway, publisher_at(redis_server.url) as publisher:
        publisher.publish("gw1", [entry("x" * 1000)])
        wait_until(lambda: gateway.frames, "a frame")
        os.kill(redis_server.process.pid, signal.SIGSTOP)
        try:
            slowest_s = 0.0
            for number in range(1, 2000):
                began_s = time.perf_counter()
                publisher.publish("gw1", [entry("x" * 1000, number)])
                slowest_s = max(slowest_s, time.perf_counter() - began_s)
        finally:
            os.kill(redis_server.process.pid, signal.SIGCONT)
        assert slowest_s < publishing.SEND_TIMEOUT_S + 5
        wait_until(lambda: len(gateway.events()) == 2000, "every event")


def test_frames_over_the_bound_are_given_up_oldest_first_and_counted(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "UNACKED_FRAMES", 10)
    with publisher_at(redis_server.url) as publisher:
        publisher.publish("gw1", [entry("before")])
        redis_server.process.kill()
        redis_server.process.wait()
        for number in range(1, 31):
            publisher.publish("gw1", [entry("during", number)])
        redis_server.restart()
        with redis.Redis.from_url(redis_server.url) as client:
            wait_until(lambda: b"31-0" in logged(client), "the last frame")
            # The first is logged again where Redis had acknowledged it before it died.
            kept = [entry_id for entry_id in logged(client) if entry_id != b"1-0"]
            assert kept == [b"%d-0" % seq for seq in range(22, 32)]
        assert publisher.dropped_frames >= 20


def test_closing_right_after_publishing_loses_nothing(redis_server: RedisServer) -> None:
    """H13: Redis gives up on a connection that is closed before its replies were read, and on what it sent."""
    with TestGateway(redis_server.url) as gateway:
        with publisher_at(redis_server.url) as publisher:
            publisher.publish("gw1", [entry("first")])
            wait_until(lambda: gateway.frames, "a frame")
            os.kill(redis_server.process.pid, signal.SIGSTOP)
            for number in range(1, 150):
                publisher.publish("gw1", [entry("x" * 500, number)])
            thaw = threading.Timer(0.2, os.kill, (redis_server.process.pid, signal.SIGCONT))
            thaw.start()
        thaw.join()
        wait_until(lambda: len(gateway.events()) == 150, "every event", deadline_s=30)


def test_a_connection_that_is_lost_before_the_end_is_made_again_at_the_end(redis_url: str) -> None:
    with TestGateway(redis_url) as gateway, publisher_at(redis_url) as publisher:
        publisher.publish("gw1", [entry("first")])
        wait_until(lambda: gateway.frames, "a frame")
        with publisher._lock:  # its own thread cannot connect before it sees that it ends
            publisher._disconnect()
            publisher._is_closing = True
        publisher.publish("gw1", [entry("last", 1)])
        publisher.close()
        wait_until(lambda: len(gateway.events()) == 2, "both events")
        assert publisher.unanswered == 0


def test_many_threads_may_publish_at_once(redis_url: str) -> None:
    with TestGateway(redis_url) as gateway, publisher_at(redis_url) as publisher:

        def publish(name: str) -> None:
            for number in range(200):
                publisher.publish("gw1", [entry("x", number, name)])

        threads = [threading.Thread(target=publish, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(seqs(gateway)) == 800, "all frames")
        assert seqs(gateway) == list(range(1, 801))
        assert all(gateway.entry_seqs(f"t{n}") == list(range(200)) for n in range(4))


def test_a_redis_user_with_few_rights_is_enough(redis_url: str, redis_client: redis.Redis) -> None:
    redis_client.acl_setuser(
        "worker",
        enabled=True,
        passwords=["+secret"],
        reset_channels=True,  # before 7.0 a new user has all of them
        commands=["+publish", "+xadd", "+expire", "+hello", "+client|setinfo", "+ping"]
        if server_version(redis_client) >= (7, 2)
        else ["+publish", "+xadd", "+expire", "+hello", "+ping"],
        keys=[NAMES.frame_log("*", "")],
        channels=[NAMES.gateway_channel("*", "h")],
    )
    folder = redis_url.partition("@")[2]
    with TestGateway(redis_url) as gateway, publisher_at(f"unix://worker:secret@{folder}") as publisher:
        publisher.publish("gw1", [entry("a")])
        wait_until(lambda: gateway.events(), "an event")


def server_version(client: redis.Redis) -> tuple[int, ...]:
    return tuple(int(part) for part in client.info("server")["redis_version"].split(".")[:2])


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[str]:
    """A Redis with TLS and a password on a TCP port; its URL."""
    server, openssl = shutil.which("redis-server"), shutil.which("openssl")
    if server is None or openssl is None:
        pytest.skip("needs redis-server and openssl")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key, "-out", certificate]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([openssl, *request, *names], check=True, capture_output=True)
    words = ["--port", "0", "--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key]
    words += ["--tls-ca-cert-file", certificate, "--tls-auth-clients", "no", "--requirepass", "pw", "--save", ""]
    process = subprocess.Popen([server, *words, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL, cwd=tmp_path)
    url = f"rediss://:pw@127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
    try:
        with redis.Redis.from_url(url) as client:
            wait_until(lambda: process.poll() is not None or answers(client), "the server")
        if process.poll() is not None:
            pytest.skip("this redis-server has no TLS")
        yield url
    finally:
        process.kill()
        process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_frames_travel_over_tls_with_a_password(tls_redis: str) -> None:
    with TestGateway(tls_redis) as gateway, publisher_at(tls_redis) as publisher:
        for number in range(50):
            publisher.publish("gw1", [entry("x" * 5000, number)])
        wait_until(lambda: len(gateway.events()) == 50, "every event")
