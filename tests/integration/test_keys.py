"""Keys at two gateways of one machine: each is counted exactly, and locked out of both at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.command.cli import main
from gateway.keys.usage import read_usage
from shared.redis_server import RedisServer
from tests.support.processes import wait_until
from tests.support.served import Reply, Served, message, served

OWNERS = "the owner's"
LIMITS = {"anna": 7, "ben": 3, "carl": 11, "dora": 0}  # requests a minute
PATHS = ("/v1/messages", "/v1/chat/completions", "/v1/responses")


@dataclass
class Household:
    gateways: tuple[Served, Served]
    state: Path
    keys: dict[str, str]

    def make(self, name: str, *words: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["key", "create", name, *words, "--state", str(self.state)]) == 0
        self.keys[name] = capsys.readouterr().out.strip()

    def ask(self, name: str, number: int = 0, *, path: str = "", **fields: object) -> Reply:
        gateway, path = self.gateways[number % 2], path or PATHS[number % 2]
        return gateway.post(path, message("echo:words 4", **fields), {"x-api-key": self.keys[name]})


@pytest.fixture
def household(tmp_path: Path, redis_server: RedisServer) -> Iterator[Household]:
    with (
        RedisServer() as server,
        served(server.url, tmp_path, api_key=OWNERS) as one,
        served(server.url, tmp_path, api_key=OWNERS) as other,
        one.worker(),
    ):
        found = Household((one, other), tmp_path / "state", {"owner": OWNERS})
        for gateway in found.gateways:
            gateway.headers["x-api-key"] = OWNERS
            wait_until(gateway.ready, "its model is there")
        yield found


def minute() -> int:
    return int(time.time() // 60)


def test_four_keys_are_counted_exactly_over_two_gateways(
    household: Household, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, limit in LIMITS.items():
        words = ("--requests-per-minute", str(limit)) if limit else ()
        household.make(name, *words, capsys=capsys)
    names = [*LIMITS] * 16

    def ask(number: int) -> tuple[str, Reply]:
        name = names[number]
        return name, household.ask(name, number // 4)

    began = minute()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(ask, range(len(names))))
    minutes = 1 + minute() - began  # whose quotas they had
    for name, limit in LIMITS.items():
        let_in = sum(reply.status == 200 for who, reply in replies if who == name)
        most = min(16, minutes * limit) if limit else 16
        assert min(limit or 16, most) <= let_in <= most
    refused = [reply for _, reply in replies if reply.status != 200]
    assert {reply.status for reply in refused} == {429}
    for reply in refused:
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert reply.json["error"]["type"] in ("rate_limit_error", "requests")
    for who, reply in replies:
        if reply.status == 200 and LIMITS[who]:
            assert int(reply.headers["x-ratelimit-limit-requests"]) == LIMITS[who]
    taken = {name: sum(reply.status == 200 for who, reply in replies if who == name) for name in LIMITS}
    wait_until(
        lambda: {used.key: used.requests for used in read_usage(household.state)} == taken, "all that was used is noted"
    )
    assert 'gw_key_tokens_total{key="dora",kind="output"}' in household.gateways[0].get("/metrics").body.decode()


def test_a_revoked_key_is_refused_at_once_by_both(household: Household, capsys: pytest.CaptureFixture[str]) -> None:
    household.make("anna", capsys=capsys)
    assert [household.ask("anna", number).status for number in range(2)] == [200, 200]
    assert main(["key", "revoke", "anna", "--state", str(household.state)]) == 0
    for number in range(2):
        reply = household.ask("anna", number)
        assert reply.status == 401
        assert "'anna' is revoked" in reply.json["error"]["message"]
    assert household.ask("owner").status == 200


def test_a_key_may_what_it_was_made_for_and_shares_nothing(
    household: Household, capsys: pytest.CaptureFixture[str]
) -> None:
    household.make("anna", "--models", "other*", capsys=capsys)
    household.make("viewer", "--role", "viewer", capsys=capsys)
    household.make("ben", capsys=capsys)
    gateway = household.gateways[0]
    assert household.ask("anna").status == 403
    assert gateway.get("/v1/models", {"x-api-key": household.keys["anna"]}).json["data"] == []
    assert gateway.get("/v1/models/echo", {"x-api-key": household.keys["anna"]}).status == 403
    assert household.ask("viewer").status == 403
    assert gateway.get("/status", {"x-api-key": household.keys["viewer"]}).status == 200
    assert gateway.get("/status", {"x-api-key": household.keys["ben"]}).status == 403
    bens = {"x-api-key": household.keys["ben"]}
    stored = gateway.post("/v1/responses", {"model": "echo", "input": "echo:words 3"}, bens).json["id"]
    assert gateway.get(f"/v1/responses/{stored}", bens).status == 200
    for other in (OWNERS, household.keys["anna"]):
        assert gateway.get(f"/v1/responses/{stored}", {"x-api-key": other}).status == 404
    logs = "".join(path.read_text(errors="replace") for path in household.state.parent.glob("**/*.log"))
    assert not any(key in logs for key in household.keys.values())
    assert not re.search("mlxgw-[A-Za-z0-9_-]{8}", logs)
