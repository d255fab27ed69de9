"""Models that come and go on one host: for want of memory, when nobody uses them, and when a person says so.

Real MLX models where memory decides, the echo engine elsewhere. macOS's own word for being short of memory is not heard
here: a file stands in for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.command.ends import UNUSABLE
from tests.support.models import REPOSITORY, CheckpointMaker
from tests.support.processes import Running, running, wait_until
from tests.support.served import Reply, Served, message, served

CHAT = "/v1/chat/completions"
LONG_S = 60.0


@dataclass(frozen=True)
class Host:
    gateway: Served
    process: Running
    config: Path

    def models(self) -> dict[str, dict[str, Any]]:
        hosts = self.gateway.get("/status").json["hosts"]
        return {model["id"]: model for host in hosts for model in host["models"]}

    def wait_for(self, **states: str) -> dict[str, dict[str, Any]]:
        def reached() -> dict[str, dict[str, Any]] | None:
            models = self.models()
            return models if all(models.get(name, {}).get("state") == state for name, state in states.items()) else None

        return wait_until(reached, f"models are {states}", deadline_s=LONG_S, every_s=0.05)

    def ask(self, model: str, words: str = "hello") -> Reply:
        return self.gateway.post(CHAT, message(words, model=model) | {"max_tokens": 8})

    def stream(self, model: str) -> list[str]:
        """The data of an answer's events, however long it takes: signs of life come meanwhile."""
        body = message("hello", model=model) | {"max_tokens": 8, "stream": True}
        with self.gateway.stream(CHAT, body) as events:
            return [data for name, data in events if name != "comment"]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway.command.cli", *words]
        env = {**os.environ, **self.gateway.env}
        return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=LONG_S)


def write_models(config: Path, models: list[dict[str, Any]], **more: Any) -> None:
    config.mkdir(exist_ok=True)
    draft = config / "draft"
    draft.write_text(json.dumps({"models": models, **more}))
    draft.replace(config / "models.json")


@contextlib.contextmanager
def host_of(
    redis_url: str, folder: Path, models: list[dict[str, Any]], settings: dict[str, Any], **more: Any
) -> Iterator[Host]:
    write_models(folder / "config", models, **more)
    with served(redis_url, folder, config_dir=folder / "config", drain_s=1, **settings) as gateway:
        with running("-m", "worker.host.host", "--name", "host", log=folder / "host.log", env=gateway.env) as process:
            yield Host(gateway, process, folder / "config")


def echo(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "source": "echo", "engine": "echo", **fields}


def room_for_one(checkpoint: Path) -> dict[str, Any]:
    weights = sum(path.stat().st_size for path in checkpoint.glob("model*.safetensors"))
    return {"memory_bytes": weights * 3 // 2, "ssd_cache_bytes": -1}


@pytest.mark.slow
def test_a_model_that_is_asked_for_takes_the_place_of_an_idle_one(
    redis_url: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    checkpoint = random_checkpoint("full")
    models = [{"id": name, "source": str(checkpoint)} for name in ("first", "second")]
    with host_of(redis_url, tmp_path, models, room_for_one(checkpoint)) as host:
        seen = host.wait_for(first="ready", second="no_memory")  # of two that start together the first in the list
        assert seen["second"]["needed_bytes"] > seen["second"]["free_bytes"] >= 0
        assert "not enough memory" in seen["second"]["reason"]
        assert host.ask("first").status == 200
        answer = host.stream("second")
        assert answer[-1] == "[DONE]"
        assert '"error"' not in "".join(answer)
        host.wait_for(first="unloaded", second="ready")


@pytest.mark.slow
def test_a_model_without_memory_is_loaded_by_itself_when_memory_is_freed(
    redis_url: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    checkpoint = random_checkpoint("full")
    models = [{"id": "first", "source": str(checkpoint), "pinned": True}, {"id": "second", "source": str(checkpoint)}]
    with host_of(redis_url, tmp_path, models, room_for_one(checkpoint)) as host:
        host.wait_for(first="ready", second="no_memory")
        assert "second has no memory: it needs" in host.command("status").stdout
        refused = host.command("unload", "first")
        assert refused.returncode == UNUSABLE
        assert "pinned" in refused.stderr
        assert host.command("unload", "first", "--force").returncode == 0
        host.wait_for(first="unloaded", second="ready")
        assert host.command("unload", "second").stdout == "second is unloaded\n"
        assert host.command("load", "first").stdout == "first is ready\n"
        shown = host.command("status").stdout
        assert "first is ready (pinned)" in shown
        assert "second is unloaded" in shown


@pytest.mark.slow
def test_a_pinned_model_stays_and_who_asks_for_another_hears_what_is_missing(
    redis_url: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    checkpoint = random_checkpoint("full")
    models = [{"id": "first", "source": str(checkpoint), "pinned": True}, {"id": "second", "source": str(checkpoint)}]
    with host_of(redis_url, tmp_path, models, room_for_one(checkpoint)) as host:
        host.wait_for(first="ready", second="no_memory")
        assert host.ask("first").status == 200
        refused = host.ask("second")
        assert refused.status == 503
        assert refused.json["error"]["code"] == "no_memory"
        assert int(refused.headers["retry-after"]) > 0
        assert host.command("load", "second").returncode == 1
        host.wait_for(first="ready", second="no_memory")


@pytest.mark.slow
def test_a_model_that_nobody_uses_is_unloaded_and_comes_back_when_it_is_asked_for(
    redis_url: str, tmp_path: Path
) -> None:
    models = [echo("brief", keep_alive=0), echo("pinned", keep_alive=0, pinned=True), echo("kept", keep_alive="1h")]
    with host_of(redis_url, tmp_path, models, {}, keep_alive="1s") as host:
        host.wait_for(brief="ready", pinned="ready", kept="ready")
        for name in ("brief", "pinned", "kept"):
            assert host.ask(name).status == 200
        host.wait_for(brief="unloaded", pinned="ready", kept="ready")
        assert host.gateway.get("/ready").json["available"] == ["brief"]
        before = host.process.output().count("worker process")
        write_models(host.config, [echo("brief", keep_alive="1h"), echo("pinned", keep_alive=0), echo("kept")])
        host.wait_for(brief="unloaded", pinned="unloaded", kept="ready")
        assert host.process.output().count("worker process") == before, "how long it is kept takes no new worker"
        assert host.ask("brief").status == 200
        host.wait_for(brief="ready")


@pytest.mark.slow
def test_a_busy_model_is_unloaded_when_it_has_finished_what_it_holds(redis_url: str, tmp_path: Path) -> None:
    models = [echo("busy", options={"step_ms": 40}), echo("never", load="on-demand")]
    with host_of(redis_url, tmp_path, models, {}) as host, ThreadPoolExecutor(2) as pool:
        host.wait_for(busy="ready", never="available")
        assert host.command("load", "busy").stdout == "busy is ready\n"
        body = message("echo:words 60", model="busy") | {"max_tokens": 200}
        answer = pool.submit(host.gateway.post, CHAT, body)
        wait_until(lambda: host.gateway.get("/status").json["workers"][0]["in_flight"], "it is at work")
        unloading = pool.submit(partial(host.command, "unload", "busy"))
        whole = answer.result()
        assert whole.status == 200
        assert whole.json["usage"]["completion_tokens"] == 60, "it took longer than stops may"
        assert unloading.result().stdout == "busy is unloaded\n"
        assert host.command("unload", "never").stdout == "never is not loaded\n"
        unknown = host.command("load", "nobody")
        assert unknown.returncode == 4
        assert "'nobody' does not exist" in unknown.stderr
        assert host.command("load", "never").stdout == "never is ready\n"


@pytest.mark.slow
def test_the_systems_pressure_unloads_an_idle_model(
    redis_url: str, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    checkpoint = random_checkpoint("full")
    models = [{"id": name, "source": str(checkpoint), "pinned": name == "pinned"} for name in ("idle", "pinned")]
    with host_of(redis_url, tmp_path, models, {"ssd_cache_bytes": -1}) as host:
        host.wait_for(idle="ready", pinned="ready")
        assert host.ask("idle").status == 200
        assert host.ask("pinned").status == 200
        (tmp_path / "state" / "device" / "memory_pressure").write_text("critical")
        host.wait_for(idle="unloaded", pinned="ready")
