"""A worker that hangs with the device in its hands, on a host with another: two real MLX workers, one of them stopped.

A stopped process stands for one that hangs in native code with Python's lock held: none of its threads gets on. What a
hung GPU does to the process that is next is not shown: there is none here.
"""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.processes import is_running
from tests.support.names import NAMES
from tests.support.processes import running, wait_until
from tests.support.sealed import open_lease
from tests.support.served import Served, served
from worker.device.turns import read_holder

STALL_S = 1.0


def pids(gateway: Served) -> dict[str, int]:
    """Of the ready workers, by model."""
    with gateway.client() as client:
        names = [name.decode() for name in client.smembers(NAMES.workers)]
        leases = [open_lease(name, data) for name in names if (data := client.get(NAMES.lease(name)))]
    return {lease.model: lease.pid for lease in leases if lease.state == "ready"}


def stop_at_the_device(pid: int, folder: Path) -> None:
    """Stop the process at a moment at which it has the device."""

    def stopped() -> bool:
        os.kill(pid, signal.SIGSTOP)
        holder = read_holder(folder)
        if holder is not None and holder.pid == pid:
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(stopped, "it has the device", deadline_s=60)


@pytest.mark.slow
def test_a_worker_that_hangs_with_the_device_is_ended_and_its_neighbour_lives(
    redis_url: str, tmp_path: Path, agent_full: Path
) -> None:
    config = tmp_path / "config"
    config.mkdir()
    models = [{"id": name, "source": str(agent_full)} for name in ("hung", "neighbour")]
    (config / "models.json").write_text(json.dumps({"models": models}))
    endless = {
        "model": "hung",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 100_000,
        "logit_bias": {"2": -100},
        "stream": True,
    }
    short = {"model": "neighbour", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    settings = {"stall_s": STALL_S, "ssd_cache_bytes": -1, "drain_s": 0.5, "config_dir": config}
    with served(redis_url, tmp_path, **settings) as gateway, ThreadPoolExecutor(1) as pool:
        log = tmp_path / "host.log"
        with running("-m", "worker.host.host", "--name", "host", log=log, env=gateway.env) as host:
            before = wait_until(lambda: (p := pids(gateway)) and len(p) == 2 and p, "both are ready", deadline_s=60)
            with gateway.stream("/v1/chat/completions", endless) as stream:
                next(iter(stream))
                stop_at_the_device(before["hung"], tmp_path / "state" / "device")
                waiting = pool.submit(gateway.post, "/v1/chat/completions", short)
                answer = waiting.result(timeout=30)
            assert answer.status == 200, answer.body
            assert not is_running(before["hung"])
            host.wait_for_line(
                rf"hung: its worker \(pid {before['hung']}\) (has had the device for more than 1 s|stands still)"
            )
            assert pids(gateway)["neighbour"] == before["neighbour"]
