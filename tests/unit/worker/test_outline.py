"""What is kept is told in pieces, and pieces are dropped with all below them, but for what a request needs now."""

from __future__ import annotations

from pathlib import Path

import redis

from gateway.admin.pieces import own_of
from shared import wire
from shared.config import Settings
from shared.pieces import LookAtPieces, Piece, Pieces, session_digest
from shared.registry import ModelSpec
from shared.seal import Purpose
from tests.models.random_checkpoint import standard_library_text
from tests.support.fleet import lease
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from tests.support.names import NAMES
from tests.support.processes import wait_until
from tests.support.sealed import KEYRING
from worker.engines.echo import EchoEngine
from worker.engines.echo_cache import EchoCache, pack_words
from worker.engines.stepped import SteppedEngine
from worker.prefix_cache.outline import drop, outline
from worker.serving.pieces import PieceTeller

WORKER = lease("m").worker


def words(count: int, name: str = "w") -> bytes:
    return pack_words(f"{name}{number}" for number in range(count))


def forked(disk_tokens: int = 0) -> EchoCache:
    """A head of 320 words, two sessions below it, and another tenant's prompt."""
    cache = EchoCache(memory_tokens=10_000, disk_tokens=disk_tokens)
    cache.keep("", words(320) + words(300, "a"), session="a")
    cache.keep("", words(320) + words(300, "b"), session="b")
    cache.keep("", words(320) + words(300, "b") + words(50, "more"), session="b")
    cache.keep("other", words(320), session="c")
    return cache


def told(cache: EchoCache) -> set[tuple[int, int, tuple[str, ...]]]:
    return {(each.start, each.end, each.sessions) for each in outline(cache.index).pieces}


def test_runs_of_one_session_are_one_piece_below_the_head_that_all_share() -> None:
    cache = forked(disk_tokens=5000)
    pieces = outline(cache.index).pieces
    head = next(each for each in pieces if each.sessions == ("a", "b"))
    assert told(cache) == {(0, 320, ("a", "b")), (320, 620, ("a",)), (320, 670, ("b",)), (0, 320, ("c",))}
    assert {each.above for each in pieces if each.start} == {head.key}
    assert sum(each.memory_bytes for each in pieces) == cache.index.nbytes
    assert sum(each.stored_bytes for each in pieces) == cache.index.stored_bytes


def test_what_is_left_out_is_counted() -> None:
    few = outline(forked().index, most=1)
    assert (len(few.pieces), few.more) == (1, 3)
    assert few.pieces[0].start == 0


def test_a_dropped_piece_takes_along_what_hangs_below_it_and_nothing_else() -> None:
    cache = forked()
    head = next(each for each in outline(cache.index).pieces if each.sessions == ("a", "b"))
    a = next(each for each in outline(cache.index).pieces if each.sessions == ("a",))
    assert cache.drop([a.key])
    assert told(cache) == {(0, 320, ("a", "b")), (320, 670, ("b",)), (0, 320, ("c",))}
    assert cache.find("", words(320) + words(300, "a")).tokens == 320
    assert cache.drop([head.key, b"no such key"])
    assert told(cache) == {(0, 320, ("c",))}
    assert cache.find("", words(321)).tokens == 0
    cache.index.check_integrity()


def test_what_a_request_needs_now_stays_with_what_leads_there() -> None:
    cache = forked()
    match = cache.index.match("", words(320) + words(300, "b"), 620)
    cache.index.pin(match.node)
    pieces = outline(cache.index).pieces
    assert [each.is_in_use for each in pieces if each.sessions == ("b",)] == [True]
    drop(cache.index, {each.key for each in pieces})
    assert cache.find("", words(320) + words(301, "b")).tokens == 620
    assert cache.find("", words(320) + words(300, "a")).tokens == 320
    assert cache.find("other", words(321)).tokens == 0
    cache.index.check_integrity()


def test_of_a_session_only_what_is_its_own_is_dropped() -> None:
    pieces = (
        Piece(key=b"h", above=b"", start=0, end=9, sessions=("a", "b")),
        Piece(key=b"a", above=b"h", start=9, end=20, sessions=("a",)),
        Piece(key=b"aa", above=b"a", start=20, end=30, sessions=("a",)),
        Piece(key=b"b", above=b"h", start=9, end=30, sessions=("b",)),
    )
    assert own_of("a", pieces) == [b"a"]
    assert own_of("x", pieces) == []


def test_the_files_and_the_memory_of_a_real_models_piece_go(tmp_path: Path, random_checkpoint: CheckpointMaker) -> None:
    driver = Driver(random_checkpoint("full"), state_dir=tmp_path, ssd_cache_bytes=1 << 30)
    store = driver.engine.store
    try:
        for name in ("a", "b"):
            driver.run(request(name, [message("system", f"{name} {standard_library_text(1500)}")], session=name))
        store.flush(10)
        before, files = store.nbytes, set(tmp_path.rglob("*.safetensors"))
        doomed = [each for each in outline(store.index).pieces if each.sessions == (session_digest("a"),)]
        assert store.drop([each.key for each in doomed])
        store.index.check_integrity()
        assert {each.sessions for each in outline(store.index).pieces} == {(session_digest("b"),)}
        assert store.nbytes < 0.7 * before
        wait_until(lambda: set(tmp_path.rglob("*.safetensors")) < files, "its files are gone")
        (again,) = driver.run(request("again", [message("system", f"b {standard_library_text(1500)}")]))
        assert again.usage.cached_tokens > 0
    finally:
        driver.engine.unload()


def test_a_worker_tells_who_looks_and_drops_what_is_named(redis_client: redis.Redis) -> None:
    core = EchoEngine(ModelSpec(id="m", source="m", engine="echo", options={"cache_tokens": 5000}), Settings())
    engine = SteppedEngine(core)
    engine.load(lambda done: None)
    teller = PieceTeller(redis_client, NAMES, KEYRING.of_worker(WORKER), engine, worker=WORKER)
    core.store.keep("", words(100), session="a")

    def look(number: str, *doomed: bytes) -> Pieces:
        teller.hear(LookAtPieces(gateway="gw", number=number, drop=doomed))
        found: list[Pieces] = []

        def is_told() -> bool:
            data = redis_client.get(NAMES.pieces(WORKER, "gw"))
            if data is not None:
                value = wire.decode(KEYRING.of_worker(WORKER).seal(Purpose.PIECES, WORKER).open(data))
                assert isinstance(value, Pieces)
                found[:] = [value]
            return bool(found) and found[0].number == number

        wait_until(is_told, "the worker's answer")
        return found[0]

    first = look("1")
    assert [(each.start, each.end) for each in first.pieces] == [(0, 100)]
    second = look("2", first.pieces[0].key)
    assert (second.pieces, second.dropped) == ((), 1)
    teller.close()
    engine.unload(5)


def test_an_engine_that_keeps_nothing_it_could_tell_says_so(redis_client: redis.Redis) -> None:
    teller = PieceTeller(redis_client, NAMES, KEYRING.of_worker(WORKER), object(), worker=WORKER)  # type: ignore[arg-type]
    teller.hear(LookAtPieces(gateway="gw", number="1"))
    wait_until(lambda: redis_client.exists(NAMES.pieces(WORKER, "gw")), "its answer")
    data = redis_client.get(NAMES.pieces(WORKER, "gw"))
    assert wire.decode(KEYRING.of_worker(WORKER).seal(Purpose.PIECES, WORKER).open(data)) == Pieces(
        number="1", is_known=False
    )
    teller.close()
