"""Macs with addresses of their own: one shares, one joins, its cable is pulled and put in again.

Network namespaces stand in for the Macs; what macOS does about local networks is not shown here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.network import Machine, can_have_networks, network
from tests.support.processes import REPOSITORY, Running, wait_until
from tests.support.up import NO_SETTINGS, READY_S

KEY = "a key"
PORT = 8080
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_have_networks(), reason="needs Linux, root and ip netns")]


@contextlib.contextmanager
def command(machine: Machine, folder: Path, *words: str) -> Iterator[Running]:
    """`mlx-gateway *words` on the machine, with a state folder of its own."""
    state = folder / machine.name
    line = [sys.executable, "-m", "gateway.command.cli", *words, "--state", str(state), "--engine", "echo"]
    env = {**NO_SETTINGS, "MLX_GATEWAY_API_KEY": KEY, "MLX_GATEWAY_EXECUTION_TTL_S": "3"}
    process = Running(machine.words(line), folder / f"{machine.name}-{words[0]}.log", env=env, cwd=REPOSITORY)
    try:
        yield process
    finally:
        process.stop()


def ask(machine: Machine, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection(machine.address, PORT, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"x-api-key": KEY})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        return answer
    finally:
        connection.close()


def serving(studio: Machine) -> list[str]:
    """The hosts whose workers are ready."""
    workers = ask(studio, "GET", "/status")["workers"]
    return sorted(each["name"].partition(".")[0] for each in workers if each["state"] == "ready")


def say(studio: Machine, texts: Sequence[str]) -> None:
    for text in texts:
        body = {"model": "echo", "max_tokens": 50, "messages": [{"role": "user", "content": text}]}
        assert ask(studio, "POST", "/v1/messages", body)["content"][0]["text"] == text


def test_a_mac_joins_over_the_network_is_cut_off_and_comes_back(tmp_path: Path) -> None:
    with network("studio", "laptop") as (studio, laptop):
        share = ("up", "--share", "--name", "studio", "--listen", studio.address, "--port", str(PORT))
        with command(studio, tmp_path, *share) as up:
            said = up.wait_for_line(r"^mlx-gateway join (\S+) ([A-Z0-9-]+)$", deadline_s=READY_S)
            assert said[1].endswith(".local")
            wrong = f"{said[2][:-1]}{'0' if said[2][-1] != '0' else '1'}"
            with command(laptop, tmp_path, "join", studio.address, wrong, "--name", "laptop") as refused:
                assert refused.process.wait(30) == 2
                assert re.fullmatch(r"mlx-gateway: the code is wrong \(2 more tries\)\n", refused.output())
            with command(laptop, tmp_path, "join", said[2], "--name", "laptop") as joined:  # found by its code alone
                joined.wait_for_line("joined as laptop")
                wait_until(lambda: serving(studio) == ["laptop", "studio"], "both serve", every_s=0.1)
                say(studio, [f"both {number}" for number in range(4)])
                laptop.plug(is_in=False)
                say(studio, [f"one {number}" for number in range(4)])
                wait_until(lambda: serving(studio) == ["studio"], "it is missed", every_s=0.1)
                laptop.plug(is_in=True)
                wait_until(lambda: serving(studio) == ["laptop", "studio"], "it is back", deadline_s=60, every_s=0.1)
                say(studio, [f"again {number}" for number in range(4)])
                up.stop()
                with command(studio, tmp_path, *(word for word in share if word != "--share")) as up_again:
                    up_again.wait_for_line("^ready on", deadline_s=READY_S)
                    wait_until(lambda: serving(studio) == ["laptop", "studio"], "it came by itself", every_s=0.1)
                    say(studio, [f"once more {number}" for number in range(4)])
