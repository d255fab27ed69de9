"""A prefix that another host has in files is fetched instead of computed, and computed when anything is wrong."""

from __future__ import annotations

import json
import math
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shared.cost import PrefillCost
from shared.events import Completion, assemble
from shared.messages import Message, TextPart
from shared.request import GenerateRequest
from shared.seal import derive_key
from tests.models.random_checkpoint import standard_library_text
from tests.support.forging import forge, of_zeros
from tests.support.lending import LENDER_KEY, grant_for, lending, with_trail
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import AGENT_FULL, CheckpointMaker, some
from tests.support.processes import wait_until
from worker.cache_files.arrival import Arrival
from worker.cache_files.file_format import FileInfo, Shape
from worker.cache_files.peers import Offer, Peers
from worker.cache_files.protocol import NONCE_BYTES, Channel, PeerError
from worker.cache_files.server import FileServer
from worker.engines.mlx.kv.peer_files import gain_s

HEAD = message("system", standard_library_text(3000))
SLOW = PrefillCost(token_s=60.0)  # a Mac on which waiting is always sooner than computing
FAST = PrefillCost(token_s=1e-6)


class Mac(Driver):
    """An engine with files of its own, that fetches what it is offered."""

    def __init__(self, folder: Path, state: Path, cost: PrefillCost = SLOW) -> None:
        super().__init__(folder, state_dir=state, ssd_cache_bytes=1 << 30)
        self.engine._peer_files._cost = lambda: cost

    def answer(self, item: GenerateRequest) -> Completion:
        completion = self.run(item)[0]
        self.engine.store.flush(10.0)
        return completion

    def answer_with(
        self, item: GenerateRequest, address: str, *, before: Callable[[], None] = lambda: None
    ) -> Completion:
        """As a request runs that comes with a grant. `before` is done between the question and the fetch."""
        offer = self.engine.locate(item, grant_for(address))
        before()
        self.submit_prepared(replace(self.engine.prepare(item), offer=offer))
        self.step_until(lambda: not self.engine.has_work())
        self.check()
        return assemble(self.events[item.id])

    @property
    def failures(self) -> dict[str, int]:
        peers = self.engine._tier.peers
        assert peers is not None
        return {reason: count for reason, count in peers.failures.items() if count}

    def files(self) -> list[Path]:
        return sorted((self.engine._settings.state_dir / "cache").rglob("*.safetensors"))


def said(answer: Completion) -> str:
    return "".join(part.text for part in answer.parts if isinstance(part, TextPart))


def ask(key: str, *messages: Message, **more: object) -> GenerateRequest:
    return with_trail(request(key, [HEAD, *messages], **more))


FIRST = message("user", "What is in the library?")
THEN = message("user", "And what else is there?")


@pytest.fixture(scope="module")
def model(random_checkpoint: CheckpointMaker) -> Path:
    return random_checkpoint("full")


@pytest.fixture(scope="module")
def lender(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a Mac that has answered a first turn, and is gone: its files are there."""
    state = tmp_path_factory.mktemp("lender")
    mac = Mac(model, state)
    answer = mac.answer(ask("r1", FIRST))
    mac.engine.unload()
    (state / "answer").write_text(said(answer))
    return state


def second_turn(state: Path) -> GenerateRequest:
    return ask("r2", FIRST, message("assistant", (state / "answer").read_text()), THEN)


def computed(completion: Completion) -> int:
    usage = completion.usage
    assert usage.input_tokens is not None
    assert usage.cached_tokens is not None
    return usage.input_tokens - usage.cached_tokens


@pytest.mark.parametrize("preset", ["full", "window", "hybrid"])
def test_the_second_turn_of_a_conversation_is_fetched_from_the_host_of_the_first(
    preset: str, random_checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    folder = random_checkpoint(preset)
    first = Mac(folder, tmp_path / "a")
    spoken = said(first.answer(ask("r1", FIRST)))
    turn = ask("r2", FIRST, message("assistant", spoken), THEN)
    at_home = first.answer(turn)
    first.engine.unload()
    with lending(tmp_path / "a") as (server, address):
        second = Mac(folder, tmp_path / "b")
        moved = second.answer_with(turn, address)
    assert moved.parts == at_home.parts
    assert computed(moved) <= 200
    assert second.failures == {}
    assert server.sent_bytes > 0
    assert second.engine.stats().metrics["fetched_tokens"] > 0
    second.engine.unload()


def test_a_conversation_whose_client_sends_no_reasoning_back_is_the_same_prompt_where_it_was_fetched(
    tmp_path: Path,
) -> None:
    first = Mac(AGENT_FULL, tmp_path / "a")
    messages = [message("system", "You are kind and thorough. " * 40), message("user", "/think Hello")]
    for turn in range(2):
        answer = first.answer(with_trail(request(str(turn), messages, max_tokens=120)))
        assert answer.usage.reasoning_tokens
        messages += [message("assistant", said(answer)), message("user", f"/think Go on {turn}")]
    turn_three = with_trail(request("next", messages))
    digest = first.engine.prepare(turn_three).prompt_digest
    first.engine.unload()
    second = Mac(AGENT_FULL, tmp_path / "b")
    with lending(tmp_path / "a") as (_, address):
        moved = second.answer_with(turn_three, address)
    assert second.engine.prepare(turn_three).prompt_digest == digest
    assert computed(moved) <= 30
    second.engine.unload()


def test_what_was_fetched_is_the_readers_own_from_then_on(model: Path, lender: Path, tmp_path: Path) -> None:
    mac = Mac(model, tmp_path)
    with lending(lender) as (server, address):
        mac.answer_with(second_turn(lender), address)
        sent = server.sent_bytes
        mac.answer_with(replace(second_turn(lender), id="r3"), address)
        assert server.sent_bytes == sent, "what is here is not fetched again"
    assert {path.name for path in mac.files()} >= {path.name for path in (lender / "cache").rglob("*.safetensors")}
    mac.engine.unload()
    again = Mac(model, tmp_path)
    assert computed(again.answer(replace(second_turn(lender), id="r4"))) <= 200, "it outlives the process"
    again.engine.unload()


def test_two_requests_with_one_head_fetch_it_once(model: Path, lender: Path, tmp_path: Path) -> None:
    mac = Mac(model, tmp_path)
    total = sum(path.stat().st_size for path in (lender / "cache").rglob("*.safetensors"))
    with lending(lender) as (server, address):
        turns = [replace(second_turn(lender), id=f"r{number}") for number in range(3)]
        offers = [mac.engine.locate(turn, grant_for(address)) for turn in turns]
        for turn, offer in zip(turns, offers, strict=True):
            mac.submit_prepared(replace(mac.engine.prepare(turn), offer=offer))
        mac.step_until(lambda: not mac.engine.has_work())
        assert server.sent_bytes <= total
    mac.engine.unload()


def test_who_leaves_while_it_comes_leaves_it_for_the_next(model: Path, lender: Path, tmp_path: Path) -> None:
    mac = Mac(model, tmp_path)
    turn = second_turn(lender)
    with lending(lender) as (_, address):
        offer = mac.engine.locate(turn, grant_for(address))
        prepared = mac.engine.prepare(turn)
        mac.submit_prepared(replace(prepared, offer=offer))
        mac.engine.cancel("r2")

        def is_there() -> bool:
            mac.engine.idle()
            return mac.engine.store.peek(turn.tenant, prepared.payload.packed) > 0

        wait_until(is_there, "what was fetched")
    assert computed(mac.answer(replace(turn, id="r3"))) <= 200
    mac.engine.unload()


def of_other_heads(shape: Shape) -> Shape:
    """Twice as many in every array that has any."""
    more = {
        name: of_zeros(dtype, (*axes[:1], 2 * axes[1], *axes[2:]) if len(axes) > 1 else axes)
        for name, (dtype, axes, _) in shape.tensors.items()
    }
    return replace(shape, tensors=more)


def of_numbers_that_are_none(shape: Shape) -> Shape:
    return replace(shape, tensors={name: of_zeros("U8", axes) for name, (_, axes, _) in shape.tensors.items()})


def of_a_layer_less(shape: Shape) -> Shape:
    rest = {name: entry for name, entry in shape.tensors.items() if not name.startswith("1.")}
    states = {index: state for index, state in json.loads(shape.states).items() if index != "1"}
    return replace(shape, tensors=rest, states=json.dumps(states))


@pytest.mark.parametrize("lie", [of_other_heads, of_numbers_that_are_none, of_a_layer_less])
@pytest.mark.parametrize("preset", some(("full", "window", "hybrid"), "hybrid"))
def test_whole_files_of_arrays_that_the_model_does_not_keep_are_refused_and_computed(
    preset: str, lie: Callable[[Shape], Shape], random_checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    folder = random_checkpoint(preset)
    first = Mac(folder, tmp_path / "a")
    turn = ask("r1", FIRST)
    spoken = first.answer(turn)
    for path in first.files():
        forge(path, lie)
    with lending(tmp_path / "a") as (_, address):
        second = Mac(folder, tmp_path / "b")
        answer = second.answer_with(replace(turn, id="r2"), address)
        assert second.failures == {"damaged": 1}
        assert answer.parts == spoken.parts
        assert answer.usage.cached_tokens == 0
    second.engine.unload()
    first.engine.unload()


# -- from the end, while the front is computed ------------------------------------------------------------------------


class Gate:
    """Lets as many files through as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._free = threading.Semaphore(0)
        fetch_one = Peers._fetch_one

        def gated(peers: Peers, channel: Channel, offer: Offer, info: FileInfo, arrival: Arrival) -> None:
            while not self._free.acquire(timeout=0.01):
                if arrival.is_slow:
                    raise PeerError("gone", "nobody waits")
            fetch_one(peers, channel, offer, info, arrival)

        monkeypatch.setattr(Peers, "_fetch_one", gated)

    def open(self, files: int) -> None:
        self._free.release(files)


@pytest.fixture(scope="module")
def pieces(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `lender`, in files of 256 tokens at most."""
    state = tmp_path_factory.mktemp("pieces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.engines.mlx.prefill.prefiller.PIECE_TOKENS", 256)
        mac = Mac(model, state)
        answer = mac.answer(ask("r1", FIRST))
        mac.engine.unload()
    (state / "answer").write_text(said(answer))
    return state


def test_to_compute_meanwhile_pays_by_whole_files() -> None:
    mac = PrefillCost(token_s=0.001)
    files = [
        FileInfo(key=b"", parent=b"", seed=b"", start=at, tokens=bytes(4 * 2000), is_checkpoint=True, nbytes=10**8)
        for at in (0, 2000, 4000)
    ]
    assert gain_s(files, 0, 50e6, mac) == pytest.approx(2.0), "6 s of fetching; after 4 the last two are here"
    assert gain_s(files, 0, 25e6, mac) == pytest.approx(12 - 4), "two are computed while the last comes"
    assert gain_s(files, 0, 1e9, mac) == pytest.approx(0.3 - 2.0), "all is here before one is computed"
    assert gain_s(files[:1], 0, 50e6, mac) == -math.inf


class Both:
    """A second Mac on which the files come from the end."""

    def __init__(self, model: Path, pieces: Path, state: Path, address: str, cost: PrefillCost = SLOW) -> None:
        self.mac = Mac(model, state, cost)
        self.mac.engine._peer_files.least_gain_s = 0.0
        peers = self.mac.engine._tier.peers
        assert peers is not None
        peers._rates[LENDER_KEY.host] = 1.0
        turn = second_turn(pieces)
        offer = self.mac.engine.locate(turn, grant_for(address))
        assert offer is not None
        self.mac.submit_prepared(replace(self.mac.engine.prepare(turn), offer=offer))
        awaited = self.mac.engine._sequences["r2"].awaited
        assert awaited is not None
        self.arrival = awaited.arrival
        assert self.arrival.is_from_end
        assert len(self.arrival.wanted) >= 5

    def arrive(self, files: int) -> None:
        wait_until(lambda: len(self.arrival.arrived) == files, "the last files")

    def finish(self) -> Completion:
        self.mac.step_until(lambda: not self.mac.engine.has_work())
        self.mac.check()
        self.mac.engine.store.collect()
        answer = assemble(self.mac.events["r2"])
        self.mac.engine.unload()
        return answer


def check_alone(answer: Completion, model: Path, pieces: Path, state: Path) -> None:
    alone = Mac(model, state)
    assert alone.answer(second_turn(pieces)).parts == answer.parts
    alone.engine.unload()


def test_the_last_files_come_first_while_the_front_is_computed_until_both_meet(
    model: Path, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with lending(pieces) as (_, address):
        both = Both(model, pieces, tmp_path / "b", address)
        wanted = list(both.arrival.wanted)
        gate.open(2)
        both.arrive(2)
        sequence = both.mac.engine._sequences["r2"]
        both.mac.step_until(lambda: sequence.position == wanted[-3].start)
        for _ in range(5):
            both.mac.step()
        assert sequence.position == wanted[-3].start, "what is on its way is waited for: to compute it takes longer"
        gate.open(1)
        answer = both.finish()
    assert [info.key for info in both.arrival.arrived] == [info.key for info in wanted[:-4:-1]]
    assert answer.usage.cached_tokens == both.arrival.end - wanted[-3].start
    assert both.mac.failures == {}
    check_alone(answer, model, pieces, tmp_path / "alone")


def test_what_is_on_its_way_is_computed_where_that_is_sooner_and_meets_what_has_come(
    model: Path, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with lending(pieces) as (_, address):
        both = Both(model, pieces, tmp_path / "b", address, FAST)
        wanted = list(both.arrival.wanted)
        gate.open(2)
        both.arrive(2)
        answer = both.finish()
    assert len(both.arrival.arrived) == 2
    assert answer.usage.cached_tokens == both.arrival.end - wanted[-2].start
    assert both.mac.failures == {"slow": 1}
    check_alone(answer, model, pieces, tmp_path / "alone")


def test_a_lender_that_goes_away_in_the_middle_leaves_what_has_come(
    model: Path, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with lending(pieces) as (server, address):
        both = Both(model, pieces, tmp_path / "b", address)
        wanted = list(both.arrival.wanted)
        gate.open(2)
        both.arrive(2)
        server.close()
        gate.open(9)
        answer = both.finish()
    assert both.mac.failures == {"gone": 1}
    assert answer.usage.cached_tokens == both.arrival.end - wanted[-2].start
    check_alone(answer, model, pieces, tmp_path / "alone")


def test_who_leaves_before_both_meet_leaves_no_file_that_hangs_nowhere(
    model: Path, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with lending(pieces) as (_, address):
        both = Both(model, pieces, tmp_path / "b", address)
        gate.open(1)
        both.arrive(1)
        both.mac.engine.cancel("r2")

        def is_left() -> bool:
            both.mac.engine.idle()
            return not both.mac.files()

        wait_until(is_left, "nothing")
    both.mac.engine.unload()


# -- faults: all of them mean computing, with the same answer -------------------------------------------------------


def forget(state: Path) -> None:
    for path in (state / "cache").rglob("*.safetensors"):
        path.unlink()


def damage(state: Path) -> None:
    """A bit of the tensors' bytes turns; headers stay as they are."""
    for path in (state / "cache").rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize(("trouble", "reason"), [(forget, "missing"), (damage, "damaged")])
def test_files_that_are_gone_or_damaged_are_computed(
    trouble: Callable[[Path], None], reason: str, model: Path, lender: Path, tmp_path: Path
) -> None:
    state = tmp_path / "a"
    shutil.copytree(lender, state)
    mac = Mac(model, tmp_path / "b")
    with lending(state) as (_, address):
        answer = mac.answer_with(second_turn(lender), address, before=lambda: trouble(state))
    assert mac.failures == {reason: 1}
    check_computed(mac, answer, model, tmp_path, lender)


def check_computed(mac: Mac, answer: Completion, model: Path, tmp_path: Path, lender: Path) -> None:
    assert computed(answer) > 200
    assert not list((tmp_path / "b").rglob("*.fetched")), "nothing half remains"
    mac.engine.unload()
    alone = Mac(model, tmp_path / "alone")
    assert alone.answer(second_turn(lender)).parts == answer.parts
    alone.engine.unload()


def test_a_peer_that_is_gone_is_not_asked_again_for_a_while(model: Path, lender: Path, tmp_path: Path) -> None:
    with lending(lender) as (_, address):
        pass
    mac = Mac(model, tmp_path / "b")
    answer = mac.answer_with(second_turn(lender), address)
    assert mac.failures == {"gone": 1}
    assert mac.engine.stats().link_bytes_per_s == {"lender": 0.0}
    check_computed(mac, answer, model, tmp_path, lender)


def test_a_peer_that_goes_away_meanwhile_is_not_waited_for(model: Path, lender: Path, tmp_path: Path) -> None:
    mac = Mac(model, tmp_path / "b")
    with lending(lender) as (server, address):
        answer = mac.answer_with(second_turn(lender), address, before=server.close)
        wait_until(lambda: mac.failures == {"gone": 1}, "the failure")
    check_computed(mac, answer, model, tmp_path, lender)


def test_files_of_another_model_are_not_taken(random_checkpoint: CheckpointMaker, lender: Path, tmp_path: Path) -> None:
    other = random_checkpoint("full", seed=1)
    mac = Mac(other, tmp_path / "b")
    with lending(lender) as (_, address):
        answer = mac.answer_with(second_turn(lender), address)
    assert mac.failures == {"other": 1}
    check_computed(mac, answer, other, tmp_path, lender)


def test_files_of_another_tenant_are_not_found(model: Path, lender: Path, tmp_path: Path) -> None:
    mac = Mac(model, tmp_path / "b")
    with lending(lender) as (_, address):
        answer = mac.answer_with(replace(second_turn(lender), tenant="somebody else"), address)
    assert mac.failures == {"missing": 1}
    assert computed(answer) > 200
    mac.engine.unload()


def test_a_grant_that_no_gateway_gave_opens_nothing(model: Path, lender: Path, tmp_path: Path) -> None:
    mac = Mac(model, tmp_path / "b")
    with lending(lender, derive_key(b"another secret of at least 32 bytes", "lender")) as (server, address):
        answer = mac.answer_with(second_turn(lender), address)
        assert server.sent_bytes == 0
    assert sum(mac.failures.values()) == 1
    check_computed(mac, answer, model, tmp_path, lender)


@contextmanager
def silent_peer() -> Iterator[str]:
    """Takes connections, says its nonce, and nothing more."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            held.append(stream)
            stream.sendall(bytes(NONCE_BYTES))

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for stream in held:
            stream.close()


def test_a_peer_that_is_slower_than_computing_is_not_waited_for(model: Path, lender: Path, tmp_path: Path) -> None:
    mac = Mac(model, tmp_path / "b", cost=FAST)
    turn = second_turn(lender)
    with lending(lender) as (_, address), silent_peer() as silent:
        offer = mac.engine.locate(turn, grant_for(address))
        assert offer is not None
        slow = replace(offer, grant=grant_for(silent))
        mac.submit_prepared(replace(mac.engine.prepare(turn), offer=slow))
        mac.step_until(lambda: not mac.engine.has_work())
    assert mac.failures == {"slow": 1}
    mac.engine.unload()


def test_a_link_that_nobody_knows_is_measured(model: Path, lender: Path, tmp_path: Path) -> None:
    mac = Mac(model, tmp_path)
    with lending(lender) as (_, address):
        assert mac.engine.locate(second_turn(lender), grant_for(address, tokens=0)) is None
        peers = mac.engine._tier.peers
        assert peers is not None
        wait_until(lambda: peers.rates().get(LENDER_KEY.host, 0.0) > 0, "the rate")
    mac.engine.unload()


def test_a_server_reads_nothing_but_what_it_named(lender: Path, tmp_path: Path) -> None:
    server = FileServer(lender / "cache", LENDER_KEY)
    assert server._catalog.locate("..", b"", [], []) == []
    assert server._catalog.locate("../lender/cache", b"", [], []) == []
