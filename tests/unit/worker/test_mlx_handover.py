"""What a Mac that leaves has kept is taken over by another, before anybody asks for it there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared.request import GenerateRequest
from tests.support.lending import LENDER_KEY, grant_for, leave_for, lending
from tests.support.mlx_engine import message
from tests.support.models import CheckpointMaker
from tests.support.processes import wait_until
from tests.unit.worker.test_mlx_fetching import FIRST, THEN, Mac, ask, computed, said
from worker.cache_files.catalog import Catalog
from worker.cache_files.peers import Peers
from worker.cache_files.protocol import LATEST, PeerError

TENANTS = ("", "another")


def first_turn(tenant: str) -> GenerateRequest:
    return replace(ask(f"first{tenant}", FIRST), tenant=tenant)


@pytest.fixture(scope="module", params=["full", "window", "hybrid"])
def model(request: pytest.FixtureRequest, random_checkpoint: CheckpointMaker) -> Path:
    return random_checkpoint(request.param)


@pytest.fixture(scope="module")
def left(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The state folder of a Mac that has answered two tenants and is unloaded, and what it said."""
    state = tmp_path_factory.mktemp("left")
    mac = Mac(model, state)
    answers = {tenant: said(mac.answer(first_turn(tenant))) for tenant in TENANTS}
    mac.engine.unload()
    return state, answers


def take_over(mac: Mac, address: str) -> None:
    """As the engine does in idle moments."""
    peers = mac.engine._tier.peers
    assert peers is not None
    mac.engine.take_over(leave_for(address), 0, 1)
    wait_until(lambda: bool(peers._taking_over) and not peers._running and peers.has_taken_over, "all of it came")
    mac.engine.idle()
    assert not peers.has_taken_over


def test_the_next_turn_on_the_other_mac_computes_only_what_is_new_and_the_first_mac_is_gone(
    model: Path, left: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    state, answers = left
    mac = Mac(model, tmp_path)
    with lending(state) as (_, address):
        take_over(mac, address)
    for tenant in TENANTS:
        turn = replace(ask(f"next{tenant}", FIRST, message("assistant", answers[tenant]), THEN), tenant=tenant)
        assert computed(mac.answer(turn)) < 100, "of some 850 tokens"
    assert mac.failures == {}


def test_what_is_here_already_is_not_fetched_again_and_told_twice_it_is_fetched_once(
    model: Path, left: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    mac = Mac(model, tmp_path)
    peers = mac.engine._tier.peers
    assert peers is not None
    with lending(left[0]) as (_, address):
        take_over(mac, address)
        fetched = peers.fetched_bytes
        assert fetched
        mac.engine.take_over(leave_for(address), 0, 1)
        again = Peers(peers._folder)
        again.take_over(leave_for(address), most_bytes=1 << 30, part=0, parts=1)
        wait_until(lambda: bool(again._taking_over.get(LENDER_KEY.host)) and not again._running, "it has looked")
        again.close()
        assert (peers.fetched_bytes, again.fetched_bytes) == (fetched, 0)


def test_parts_share_nothing_but_heads_and_are_all_of_it(model: Path, left: tuple[Path, dict[str, str]]) -> None:
    catalog = Catalog(left[0] / "cache")
    (folder,) = catalog.folders()
    whole = set(catalog.latest(folder, most_bytes=1 << 40, part=0, parts=1))
    assert whole == {bytes.fromhex(path.stem) for path in (left[0] / "cache" / folder).glob("*.safetensors")}
    parts = [set(catalog.latest(folder, most_bytes=1 << 40, part=part, parts=3)) for part in range(3)]
    assert set().union(*parts) == whole
    assert catalog.latest(folder, most_bytes=10, part=0, parts=1) == []


def test_leave_for_one_request_is_no_leave_to_take_over(
    model: Path, left: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """A host that turned bad has grants of its requests, and no gateway's word that another leaves."""
    with lending(left[0]) as (_, address):
        peers = Peers(tmp_path)
        channel = peers._open(grant_for(address))
        with channel.stream:
            channel.say([LATEST, next((left[0] / "cache").iterdir()).name, 1 << 30, 0, 1])
            with pytest.raises((PeerError, ConnectionError)):
                channel.hear(1 << 20)
        peers.close()
