"""Keys at two gateways of one machine: each is counted exactly, and locked out of both at once."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import orjson
import pytest
from openai.types import Batch

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


def test_who_leaves_before_the_end_has_paid_for_what_was_said(
    household: Household, capsys: pytest.CaptureFixture[str]
) -> None:
    household.make("anna", "--tokens-per-day", "40", capsys=capsys)
    key = {"x-api-key": household.keys["anna"]}
    body = message("echo:words 4000", stream=True, max_tokens=4000)
    with household.gateways[0].stream(PATHS[0], body, key) as source:
        said = (name for name, _ in source if name == "content_block_delta")
        assert len(list(itertools.islice(said, 60))) == 60
    wait_until(
        lambda: [used.output_tokens >= 60 for used in read_usage(household.state) if used.key == "anna"] == [True],
        "what was said is counted",
    )
    assert household.ask("anna").status == 429


def lines(bodies: list[dict[str, object]], url: str) -> bytes:
    return b"\n".join(
        orjson.dumps({"custom_id": f"c{number}", "method": "POST", "url": url, "body": body})
        for number, body in enumerate(bodies)
    )


def asked(words: str, model: str = "echo") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": words}]}


@dataclass
class Person:
    """Who works with files and batches, by a key."""

    client: openai.OpenAI

    def begin(self, *bodies: dict[str, object]) -> Batch:
        file = self.client.files.create(file=("in.jsonl", lines([*bodies], PATHS[1])), purpose="batch")
        return self.client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )

    def has_ended(self, batch: Batch) -> bool:
        return self.client.batches.retrieve(batch.id).status == "completed"

    def statuses(self, batch: Batch) -> dict[str, int]:
        found = self.client.batches.retrieve(batch.id)
        names = [name for name in (found.output_file_id, found.error_file_id) if name]
        rows = [orjson.loads(row) for name in names for row in self.client.files.content(name).content.splitlines()]
        return {row["custom_id"]: row["response"]["status_code"] for row in rows}


@pytest.fixture
def person(household: Household) -> Iterator[Callable[[str], Person]]:
    with contextlib.ExitStack() as closing:

        def build(name: str) -> Person:
            url = f"http://127.0.0.1:{household.gateways[0].port}/v1"
            client = openai.OpenAI(base_url=url, api_key=household.keys[name], max_retries=0)
            return Person(closing.enter_context(client))

        yield build


@pytest.mark.slow
def test_files_and_batches_are_their_tenants_and_run_as_their_keys(
    household: Household, person: Callable[[str], Person], capsys: pytest.CaptureFixture[str]
) -> None:
    household.make("anna", "--models", "ec*", capsys=capsys)
    household.make("ben", capsys=capsys)
    household.make("screen", "--role", "viewer", capsys=capsys)
    household.make("chief", "--role", "admin", capsys=capsys)
    anna = person("anna")
    batch = anna.begin(asked("one"), asked("two", model="nobody"), asked("echo:words 3"))
    hanging = anna.begin(asked("echo:hang"), asked("after"))
    wait_until(lambda: anna.has_ended(batch), "the batch has ended")
    assert anna.statuses(batch) == {"c0": 200, "c1": 404, "c2": 200}
    assert {file.purpose for file in anna.client.files.list()} == {"batch", "batch_output"}
    for name in ("ben", "owner", "chief"):
        other = person(name)
        assert (list(other.client.files.list()), list(other.client.batches.list())) == ([], [])
        assert batch.input_file_id
        for look in (
            lambda other=other: other.client.files.content(batch.input_file_id),
            lambda other=other: other.client.files.delete(batch.input_file_id),
            lambda other=other: other.client.batches.retrieve(batch.id),
            lambda other=other: other.client.batches.cancel(hanging.id),
            lambda other=other: other.client.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                look()
    with pytest.raises(openai.PermissionDeniedError):
        person("screen").client.files.list()
    page = anna.client.files.create(file=("a.html", b"<script>1</script>", "text/html"), purpose="user_data")
    shown = anna.client.files.content(page.id).response.headers
    assert (shown["content-disposition"], shown["x-content-type-options"]) == ("attachment", "nosniff")
    wait_until(
        lambda: [used.requests for used in read_usage(household.state) if used.key == "anna"] == [3],
        "what her batch used is hers",
    )
    assert main(["key", "revoke", "anna", "--state", str(household.state)]) == 0
    capsys.readouterr()
    household.make("heir", "--tenant", "anna", capsys=capsys)
    assert person("heir").client.batches.cancel(hanging.id).cancelling_at is not None


def test_a_batch_takes_no_more_than_its_keys_quota_and_waits_for_the_next_minute(
    household: Household, person: Callable[[str], Person], capsys: pytest.CaptureFixture[str]
) -> None:
    household.make("anna", "--requests-per-minute", "3", capsys=capsys)
    household.make("heir", "--tenant", "anna", capsys=capsys)
    anna, heir = person("anna"), person("heir")
    began = minute()
    batch = anna.begin(*(asked(f"number {number}") for number in range(40)))

    def done() -> int:
        counts = heir.client.batches.retrieve(batch.id).request_counts
        return counts.completed if counts else 0

    wait_until(lambda: done() >= 3, "a minute's requests are answered")
    assert done() <= 3 * (1 + minute() - began)
    assert heir.client.batches.cancel(batch.id).status == "cancelling"


def test_embeddings_and_rankings_obey_a_keys_models_and_quota(
    household: Household, capsys: pytest.CaptureFixture[str]
) -> None:
    household.make("anna", "--models", "other", capsys=capsys)
    household.make("ben", "--requests-per-minute", "1", capsys=capsys)
    household.make("screen", "--role", "viewer", capsys=capsys)
    for path, body in (
        ("/v1/embeddings", {"model": "echo", "input": "words"}),
        ("/v1/rerank", {"model": "echo", "query": "words", "documents": ["words"]}),
    ):
        statuses = [
            household.gateways[0].post(path, body, {"x-api-key": household.keys[name]}).status
            for name in ("anna", "screen", "owner")
        ]
        assert statuses == [403, 403, 400], "it makes no vectors"
    began, body = minute(), {"model": "echo", "input": "words"}
    replies = [household.gateways[n].post("/v1/embeddings", body, {"x-api-key": household.keys["ben"]}) for n in (0, 1)]
    assert replies[0].status == 400
    assert replies[1].status == 429 or minute() > began
    assert not [used for used in read_usage(household.state) if used.key == "ben"], "nothing was made"
