"""The host supervisor alone, with the echo engine: what it loads, when, and what the fleet hears of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from shared import keys, wire
from shared.cache_settings import FILE as CACHE_SETTINGS
from shared.registry import HostRecord, ModelRecord, WorkerLease
from tests.support.names import NAMES
from tests.support.processes import Running, is_running, running, wait_until
from tests.support.sealed import LOADS, SECRET, host_seal, open_lease

HOST = "testhost"


@dataclass(frozen=True, kw_only=True)
class HostUnderTest:
    process: Running
    client: redis.Redis
    config: Path

    def record(self) -> HostRecord | None:
        data = self.client.get(NAMES.host(HOST))
        value = wire.decode(host_seal(HOST).open(data)) if data else None
        return value if isinstance(value, HostRecord) else None

    def model(self, name: str) -> ModelRecord | None:
        record = self.record()
        return next((m for m in record.models if m.id == name), None) if record else None

    def wait_for(self, name: str, state: str, **more: Any) -> ModelRecord:
        def reached() -> ModelRecord | None:
            model = self.model(name)
            return model if model is not None and model.state == state else None

        return wait_until(reached, f"{name} is {state}", **more)

    def leases(self, model: str) -> list[WorkerLease]:
        names = [name.decode() for name in self.client.smembers(NAMES.workers)]
        leases = [open_lease(name, data) for name in names if (data := self.client.get(NAMES.lease(name)))]
        return [lease for lease in leases if lease.model == model]

    def wait_for_lease(self, model: str, accept: Callable[[WorkerLease], bool] = lambda _: True) -> WorkerLease:
        def found() -> WorkerLease | None:
            return next((x for x in self.leases(model) if x.state == "ready" and accept(x)), None)

        return wait_until(found, f"a worker of {model} is ready")

    def serve(self, *models: dict[str, Any]) -> None:
        write_models(self.config, *models)


def asking(value: object) -> bytes:
    return LOADS.close(wire.encode(value))


def write_models(config: Path, *models: dict[str, Any]) -> None:
    """Whole or not at all, as an editor does it."""
    config.mkdir(exist_ok=True)
    draft = config / "draft"
    draft.write_text(json.dumps({"models": list(models)}))
    draft.replace(config / "models.json")


def echo(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "source": "echo", "engine": "echo", **fields}


@contextmanager
def host(folder: Path, redis_url: str, *arguments: str, **variables: str) -> Iterator[HostUnderTest]:
    folder.mkdir(exist_ok=True)
    environment = {
        "REDIS_URL": redis_url,
        "MLX_GATEWAY_STATE_DIR": str(folder / "state"),
        "MLX_GATEWAY_CONFIG_DIR": str(folder / "config"),
        "MLX_GATEWAY_SECRET": SECRET,
        "MLX_GATEWAY_DRAIN_S": "0.5",
        **variables,
    }
    words = ("-m", "worker.host.host", "--engine", "echo", "--name", HOST, *arguments)
    with redis.Redis.from_url(redis_url) as client:
        with running(*words, log=folder / "host.log", env=environment) as process:
            yield HostUnderTest(process=process, client=client, config=folder / "config")


def test_the_fleet_sees_a_model_load_and_become_ready(tmp_path: Path, redis_url: str) -> None:
    write_models(tmp_path / "config", echo("slow", options={"load_ms": 700}))
    with host(tmp_path, redis_url) as under_test:

        def halfway() -> bool:
            model = under_test.model("slow")
            return model is not None and model.state == "loading" and 0 < model.load_done < 1

        wait_until(halfway, "loading progress is published")
        under_test.wait_for("slow", "ready")
        lease = under_test.wait_for_lease("slow")
        assert lease.host == HOST
        record = under_test.record()
        assert record is not None
        assert record.pid == under_test.process.pid
        ttl_ms = under_test.client.pttl(NAMES.host(HOST))
        assert 0 < ttl_ms <= keys.HOST_TTL_S * 1000


@pytest.mark.slow
def test_a_tiers_draft_model_drafts_in_the_worker_of_its_model_until_it_is_taken_back(
    tmp_path: Path, redis_url: str, agent_full: Path
) -> None:
    config = tmp_path / "config"
    write_models(config, {"id": "coder", "source": str(agent_full)})
    routing = config / "claude_routing.json"
    routing.write_text(json.dumps({"tiers": {"opus": {"model": "coder", "draft_model": str(agent_full)}}}))
    log = tmp_path / "state" / "logs" / "worker-coder.log"
    with host(tmp_path, redis_url) as under_test:
        drafting = under_test.wait_for_lease("coder")
        assert log.read_text().count(f"drafting with {agent_full}") == 1
        routing.write_text(json.dumps({"tiers": {"opus": "coder"}}))
        plain = under_test.wait_for_lease("coder", lambda lease: lease.epoch != drafting.epoch)
        assert plain.pid != drafting.pid
        assert log.read_text().count("drafting with") == 1


@pytest.mark.slow
def test_models_json_is_followed_while_it_runs(tmp_path: Path, redis_url: str) -> None:
    write_models(tmp_path / "config", echo("one"), echo("two"))
    with host(tmp_path, redis_url) as under_test:
        one, two = under_test.wait_for_lease("one"), under_test.wait_for_lease("two")
        under_test.serve(echo("two"), echo("three"))
        under_test.wait_for_lease("three")
        wait_until(lambda: not is_running(one.pid), "the worker of the model that is gone ends")
        assert under_test.model("one") is None
        assert under_test.leases("one") == []
        assert [lease.pid for lease in under_test.leases("two")] == [two.pid], "what did not change keeps its worker"
        under_test.serve(echo("two", options={"context_tokens": 77}), echo("three"))
        changed = under_test.wait_for_lease("two", lambda lease: lease.pid != two.pid)
        assert changed.context_tokens == 77


@pytest.mark.parametrize("content", ['{"models": [', "null", '{"models": [{"source": "x", "options": [1]}]}'])
def test_a_broken_models_json_changes_nothing(tmp_path: Path, redis_url: str, content: str) -> None:
    write_models(tmp_path / "config", echo("one"))
    with host(tmp_path, redis_url) as under_test:
        lease = under_test.wait_for_lease("one")
        (tmp_path / "config" / "models.json").write_text(content)
        under_test.process.wait_for_line(r"models\.json.*stay as they were")
        assert is_running(lease.pid)
        under_test.serve(echo("one"), echo("two"))
        under_test.wait_for_lease("two")
        assert is_running(lease.pid)
        assert under_test.process.output().count("stay as they were") == 1


def test_a_worker_begins_with_what_is_said_of_caches_then(tmp_path: Path, redis_url: str) -> None:
    write_models(tmp_path / "config", echo("one"))
    path = tmp_path / "config" / CACHE_SETTINGS
    path.write_text('{"cache_max_slots": 7, "cache_bits": 8}')
    with host(tmp_path, redis_url, MLX_GATEWAY_CACHE_BITS="0") as under_test:

        def begun(after: WorkerLease | None) -> tuple[WorkerLease, dict[str, str]]:
            lease = under_test.wait_for_lease("one", lambda found: after is None or found.pid != after.pid)
            return lease, psutil.Process(lease.pid).environ()

        first, told = begun(None)
        assert (told["MLX_CACHE_MAX_SLOTS"], told["MLX_GATEWAY_CACHE_BITS"]) == ("7", "0"), "the environment is first"
        path.write_text('{"cache_max_slots": "many"}')
        under_test.process.wait_for_line(r"cache_settings\.json.*stay as they were")
        os.kill(first.pid, signal.SIGTERM)
        second, told = begun(first)
        assert told["MLX_CACHE_MAX_SLOTS"] == "7", "the last good content"
        path.write_text('{"cache_max_slots": 9}')
        os.kill(second.pid, signal.SIGTERM)
        _, told = begun(second)
        assert told["MLX_CACHE_MAX_SLOTS"] == "9"


def test_a_model_on_demand_is_loaded_when_somebody_asks(tmp_path: Path, redis_url: str) -> None:
    write_models(tmp_path / "config", echo("later", load="on-demand"), echo("other", load="on-demand"))
    with host(tmp_path, redis_url) as under_test:
        under_test.wait_for("later", "available")
        for garbage in (b"\xff", *map(asking, ([["later"], {"later": 1}, None, 7], {"later": 1}))):
            wait_until(partial(under_test.client.publish, NAMES.loads, garbage), "the host listens")
        under_test.client.publish(NAMES.loads, asking([["other", "elsewhere"], ["later", HOST]]))
        under_test.wait_for_lease("later")
        model = under_test.model("other")
        assert model is not None
        assert model.state == "available"


def test_a_models_date_is_known_before_it_is_loaded_and_stays_while_it_is(tmp_path: Path, redis_url: str) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").touch()
    os.utime(source / "config.json", (1_700_000_000, 1_700_000_000))
    write_models(tmp_path / "config", {**echo("dated", load="on-demand"), "source": str(source)})
    with host(tmp_path, redis_url) as under_test:
        assert under_test.wait_for("dated", "available").made_at_s == 1_700_000_000
        wait_until(lambda: under_test.client.publish(NAMES.loads, asking(["dated"])), "the host listens")
        assert under_test.wait_for_lease("dated").made_at_s == 1_700_000_000
        assert under_test.wait_for("dated", "ready").made_at_s == 1_700_000_000


def test_a_folder_that_is_no_model_is_reported_at_once(tmp_path: Path, redis_url: str) -> None:
    source = tmp_path / "model"
    source.mkdir()
    write_models(tmp_path / "config", {"id": "bad", "source": str(source)})
    with host(tmp_path, redis_url) as under_test:
        assert "has no config.json" in under_test.wait_for("bad", "failed").reason
        assert under_test.process.output().count("worker process") == 1


def test_a_model_that_cannot_be_loaded_is_tried_again_when_its_files_change(tmp_path: Path, redis_url: str) -> None:
    source = tmp_path / "model"
    source.mkdir()
    write_models(tmp_path / "config", {**echo("bad", options={"bogus": 1}), "source": str(source)})
    with host(tmp_path, redis_url) as under_test:
        assert "bogus" in under_test.wait_for("bad", "failed").reason

        def starts() -> int:
            return under_test.process.output().count("worker process")

        assert starts() == 1, "a stated reason is not retried"
        (source / "config.json").write_text("{}")
        wait_until(lambda: starts() == 2, "it is tried again")
        under_test.wait_for("bad", "failed")


def test_a_very_long_reason_reaches_the_fleet_in_part_and_the_host_goes_on(tmp_path: Path, redis_url: str) -> None:
    write_models(tmp_path / "config", echo("good"), echo("bad", options={"x" * 100_000: 1}))
    with host(tmp_path, redis_url) as under_test:
        assert "unknown option 'xxx" in under_test.wait_for("bad", "failed").reason
        under_test.wait_for("good", "ready")


def test_a_killed_worker_is_buried_and_replaced_at_once(tmp_path: Path, redis_url: str) -> None:
    with host(tmp_path, redis_url, "--model", "echo") as under_test:
        before = under_test.wait_for_lease("echo")
        os.kill(before.pid, signal.SIGKILL)
        wait_until(lambda: not under_test.client.exists(NAMES.lease(before.worker)), "its lease goes", deadline_s=2.0)
        after = under_test.wait_for_lease("echo", lambda lease: lease.worker != before.worker)
        assert after.epoch != before.epoch


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_is_given_up_loudly(tmp_path: Path, redis_url: str) -> None:
    with host(tmp_path, redis_url, "--model", "echo") as under_test:
        dead: set[int] = set()

        def failed() -> ModelRecord | None:
            for lease in under_test.leases("echo"):
                if lease.pid not in dead and is_running(lease.pid):
                    os.kill(lease.pid, signal.SIGKILL)
                    dead.add(lease.pid)
            model = under_test.model("echo")
            return model if model is not None and model.state == "failed" else None

        model = wait_until(failed, "the host gives up", deadline_s=40.0)
        assert "died 5 times" in model.reason
        assert f"signal {int(signal.SIGKILL)}" in model.reason
        assert len(dead) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_host(tmp_path: Path, redis_url: str, number: signal.Signals) -> None:
    with host(tmp_path, redis_url, "--model", "echo") as under_test:
        lease = under_test.wait_for_lease("echo")
        under_test.process.signal(number)
        under_test.process.wait()
        wait_until(lambda: not is_running(lease.pid), "the worker is gone")
        if number == signal.SIGTERM:
            assert under_test.process.process.returncode == 0
            assert under_test.client.smembers(NAMES.hosts) == set()
            assert under_test.record() is None


def test_a_model_may_have_any_name(tmp_path: Path, redis_url: str) -> None:
    names = ["--help", "qwen:7b", "x" * 300]
    write_models(tmp_path / "config", *(echo(name) for name in names))
    with host(tmp_path, redis_url) as under_test:
        for name in names:
            under_test.wait_for_lease(name)


def test_two_models_of_one_name_are_refused(tmp_path: Path, redis_url: str) -> None:
    write_models(tmp_path / "config", echo("same"), echo("same"))
    with host(tmp_path, redis_url) as under_test:
        assert under_test.process.wait() == 2
        assert "two models are called 'same'" in under_test.process.output()


def test_a_second_host_of_the_same_name_is_refused(tmp_path: Path, redis_url: str) -> None:
    write_models(tmp_path / "config", echo("one", load="on-demand"))
    with host(tmp_path, redis_url) as first:
        first.wait_for("one", "available")
        with host(tmp_path / "second", redis_url) as second:
            assert second.process.wait() == 2
            assert f"a host called '{HOST}' (pid {first.process.pid})" in second.process.output()
        first.process.signal(signal.SIGKILL)
        first.process.wait()
    with host(tmp_path, redis_url) as again:
        wait_until(lambda: (r := again.record()) and r.pid == again.process.pid, "a dead one's name is free at once")


def test_what_another_version_left_under_the_hosts_name_is_overwritten(tmp_path: Path, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(NAMES.host(HOST), wire.encode("of another kind")[:-1])
    with host(tmp_path, redis_url, "--model", "echo") as under_test:
        under_test.wait_for_lease("echo")
        under_test.wait_for("echo", "ready")


def test_a_model_whose_worker_finds_no_redis_is_loaded_when_redis_comes(tmp_path: Path, redis_url: str) -> None:
    """Machines of one rack start in any order: no Redis is no fault of the model's, for however long."""
    password, _, server = redis_url.removeprefix("unix://:").partition("@")
    with redis.Redis.from_url(redis_url) as admin:
        with host(tmp_path, f"unix://late:{password}@{server}", "--model", "echo") as under_test:
            under_test.process.wait_for_line("its worker found no Redis")
            admin.acl_setuser(
                "late", enabled=True, passwords=[f"+{password}"], commands=["+@all"], keys=["*"], channels=["*"]
            )
            under_test.wait_for_lease("echo")
            assert "died" not in under_test.process.output()


def test_the_host_outlives_redis(tmp_path: Path, redis_server: Any) -> None:
    with host(tmp_path, redis_server.url, "--model", "echo") as under_test:
        before = under_test.wait_for_lease("echo")
        redis_server.restart()
        after = under_test.wait_for_lease("echo")
        assert after.pid == before.pid
        under_test.wait_for("echo", "ready")
