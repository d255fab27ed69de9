"""Every query of every board, asked of a real Prometheus that scraped a real stack under mixed load and faults.

    python -m tests.deploy.boards_drill [SECONDS]

Two hosts serve two small MLX models behind one gateway with a short queue. For SECONDS (60) conversations go on and
begin anew, batch work and counts come, clients leave in the middle, ask nonsense and for models that do not exist, more
come than may wait, and a worker is killed twice. Then each query is asked with every variable at "All" and at each of
its values, and a table says how many samples came. What is rightly empty is in `EMPTY`, with the reason; anything else
that is empty is a fault of the board. Grafana itself is not part of it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from deploy.grafana.boards import BOARDS
from gateway.command.runfile import read_running
from tests.support.models import AGENT_FULL, DEMO_MODEL
from tests.support.processes import REPOSITORY, descendants, free_port, running, wait_until
from tests.support.up import NO_SETTINGS, up

RATE = "15s"  # what Grafana would make of $__rate_interval for a scrape each second

# Why a query may find nothing here, by a part of it.
EMPTY: dict[str, str] = {
    "offset 1d": "this Prometheus was not there yesterday",
    "host_on_battery": "this machine has no battery",
    "wk_upstream_up": "no model is behind another server",
    "gw_redis_memory_limit_bytes > 0": "the private Redis has no limit",
    "gw_redis_memory_bytes > 0": "the private Redis has no limit",
}


@dataclass
class Row:
    board: str
    panel: str
    query: str
    samples: int = 0
    by_value: dict[str, int] = field(default_factory=dict)

    @property
    def excuse(self) -> str:
        return next((reason for part, reason in EMPTY.items() if part in self.query), "")

    @property
    def is_sound(self) -> bool:
        return bool(self.excuse) or (self.samples > 0 and all(self.by_value.values()))


class Load:
    """Clients of every kind, until told to stop."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url)
        self.over = threading.Event()
        kinds = (
            self.goes_on,
            self.goes_on,
            self.begins,
            self.shares,
            self.leaves,
            self.batch,
            self.nonsense,
            self.counts,
        )
        self.threads = [threading.Thread(target=self._again, args=(kind, n)) for n, kind in enumerate(kinds)]
        self.threads += [threading.Thread(target=self._again, args=(self.burst, 50 + n)) for n in range(6)]

    def _again(self, kind: Any, number: int) -> None:
        chance = random.Random(number)
        turn = 0
        while not self.over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                kind(chance, turn, f"client-{number}")
            turn += 1
            self.over.wait(chance.uniform(0.05, 0.4))

    def ask(self, path: str, body: Any, *, read: bool = True, **headers: str) -> int:
        """The status of the answer."""
        connection = http.client.HTTPConnection(self.address.hostname or "", self.address.port or 0, timeout=60)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
            response = connection.getresponse()
            response.read(None if read else 40)
            return response.status
        finally:
            connection.close()

    def message(self, text: str, *, model: str, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        return {"model": model, "max_tokens": 24, "temperature": 0, "messages": messages, **fields}

    def model(self, turn: int) -> str:
        return (AGENT_FULL.name, DEMO_MODEL.name)[turn % 2]

    def goes_on(self, chance: random.Random, turn: int, name: str) -> None:
        model = AGENT_FULL.name if name.endswith("0") else DEMO_MODEL.name
        messages: list[dict[str, str]] = [{"role": "user", "content": f"{name} {turn} " + "many words here " * 120}]
        for step in range(5):
            body = {"model": model, "max_tokens": 20, "temperature": 0, "stream": True, "messages": messages}
            self.ask("/v1/messages", body)
            messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": f"and {step}"}]

    def begins(self, chance: random.Random, turn: int, name: str) -> None:
        text = f"{chance.random()} " + "something new " * chance.randrange(10, 200)
        self.ask("/v1/chat/completions", self.message(text, model=self.model(turn)))

    def shares(self, chance: random.Random, turn: int, name: str) -> None:
        """A head that is known, and something new."""
        text = f"{chance.random()} " + "something else " * 150
        body = self.message(text, model=self.model(turn), system="rules of the house " * 250)
        self.ask("/v1/messages", body)

    def leaves(self, chance: random.Random, turn: int, name: str) -> None:
        body = self.message(f"{chance.random()} " + "go on " * 300, model=self.model(turn), stream=True)
        self.ask("/v1/messages", {**body, "max_tokens": 400}, read=False)

    def batch(self, chance: random.Random, turn: int, name: str) -> None:
        priority = ("batch", "subagent", "side")[turn % 3]
        body = self.message(f"later {turn}", model=self.model(turn // 3))
        while self.ask("/v1/messages", body, **{"x-mlx-gateway-priority": priority}) != 200:
            if self.over.wait(0.2):  # batch work fills half of the queue at most, so it asks until it is let in
                return

    def nonsense(self, chance: random.Random, turn: int, name: str) -> None:
        self.ask("/v1/messages", {"model": self.model(turn), "messages": 7})
        self.ask("/v1/messages", self.message("hello", model="nobody-serves-this"))

    def counts(self, chance: random.Random, turn: int, name: str) -> None:
        self.ask("/v1/messages/count_tokens", self.message("how many", model=self.model(turn)))

    def burst(self, chance: random.Random, turn: int, name: str) -> None:
        """More than may wait."""
        body = self.message(f"{name} {turn} " + "words " * 200, model=self.model(turn), stream=True)
        self.ask("/v1/messages", {**body, "max_tokens": 60})
        self.over.wait(chance.uniform(1.0, 3.0))  # so that others have their turn, too

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in self.threads:
                thread.join(90)


class Prometheus:
    """A real one, that scrapes what the gateway's discovery names, each second."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            return bool(self.get("/api/v1/query?query=up")["data"]["result"])
        return False

    def samples(self, query: str, began_s: float) -> int:
        """Numbers (not NaN) of all series over the time since then."""
        path = f"/api/v1/query_range?query={quote(query)}&start={began_s}&end={time.time()}&step=5"
        said = self.get(path)
        if said["status"] != "success":
            raise AssertionError(f"{query}: {said}")
        return sum(value != "NaN" for series in said["data"]["result"] for _, value in series["values"])

    def values(self, label: str, metric: str) -> list[str]:
        said = self.get(f"/api/v1/label/{label}/values?match[]={metric}")
        return list(said["data"])


@contextlib.contextmanager
def prometheus(folder: Path, gateway_url: str) -> Iterator[Prometheus]:
    source = REPOSITORY / "deploy" / "prometheus"
    rules = (source / "rules.yml").read_text().replace("interval: 30s", "interval: 2s")
    (folder / "rules.yml").write_text(rules)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 2s}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n  - job_name: mlx-gateway\n"
        f"    http_sd_configs: [{{url: '{gateway_url}/metrics/targets', refresh_interval: 2s}}]\n"
    )
    found, port = Prometheus(free_port()), 0
    port = found.port
    words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    words += [f"--web.listen-address=127.0.0.1:{port}"]
    program = shutil.which("prometheus")
    assert program is not None, "Debian's package prometheus is missing"
    with running(*words, log=folder / "prometheus.log", python=program):
        wait_until(found.is_ready, "Prometheus scrapes", deadline_s=60)
        yield found


def kill_a_worker(pid: int) -> None:
    """The way a crash does it."""
    for child in sorted(descendants(pid)):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            if words[1:4] == ["-P", "-m", "worker"]:  # and not its guard
                os.kill(child, signal.SIGKILL)
                return


def ask_all(found: Prometheus, began_s: float) -> list[Row]:
    offered = {
        "model": found.values("model", "host_model_state"),
        "host": found.values("host", "host_up"),
        "class": found.values("class", "gw_deadline_seconds"),
    }
    return [
        _asked(found, began_s, offered, Row(board.title, panel.title, query.expr))
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for query in panel.queries
    ]


def _asked(found: Prometheus, began_s: float, offered: dict[str, list[str]], row: Row) -> Row:
    row.samples = found.samples(_with(row.query, {}), began_s)
    for name, values in offered.items():
        if f"${name}" in row.query:
            for value in values:
                row.by_value[f"{name}={value}"] = found.samples(_with(row.query, {name: value}), began_s)
    return row


def _with(query: str, chosen: dict[str, str]) -> str:
    query = query.replace("$__rate_interval", RATE)
    return re.sub(r"\$(model|host|class)\b", lambda found: chosen.get(found[1], ".*"), query)


def drill(folder: Path, load_s: float) -> list[Row]:
    models = [word for path in (AGENT_FULL, DEMO_MODEL) for word in ("--model", str(path))]
    env = {"MLX_GATEWAY_MAX_QUEUE": "2", "MLX_GATEWAY_CAPACITY": "2"}
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(up(folder / "up", "--engine", "mlx", "--name", "mac-one", *models, env=env))
        url = first.wait_until_ready()
        note = read_running(first.state)
        assert note is not None
        secret = (first.state / "secret").read_text().strip()
        second_env = {**NO_SETTINGS, **env, "REDIS_URL": note.redis_url, "MLX_GATEWAY_SECRET": secret}
        words = ("-m", "gateway.command.cli", "host", "--name", "mac-two", "--state", str(folder / "two"), *models)
        second = stack.enter_context(running(*words, log=folder / "two.log", env=second_env))
        found = stack.enter_context(prometheus(folder, url))
        wait_until(lambda: len(ready_models(first)) == 2, "both models answer", deadline_s=60)
        began_s = time.time()
        with Load(url).under_way():
            for share in (0.4, 0.2):
                time.sleep(load_s * share)
                kill_a_worker(second.pid if share == 0.2 else first.process.pid)
            time.sleep(load_s * 0.4)
        time.sleep(3)  # two scrapes more
        return ask_all(found, began_s)


def ready_models(first: Any) -> list[str]:
    return list(first.request("GET", "/ready")[1]["models"])


def table(rows: list[Row]) -> str:
    lines = ["| board | panel | query | samples, all | fewest with one value | |", "|---|---|---|---|---|---|"]
    for row in rows:
        fewest = min(row.by_value.values(), default=None)
        said = "" if fewest is None else str(fewest)
        mark = row.excuse and f"rightly empty: {row.excuse}" if not row.samples or fewest == 0 else ""
        if not row.is_sound:
            mark = "EMPTY " + ", ".join(name for name, count in row.by_value.items() if not count)
        query = row.query.replace("|", "\\|")
        board = row.board.removeprefix("mlx-gateway: ")
        lines.append(f"| {board} | {row.panel} | `{query}` | {row.samples} | {said} | {mark} |")
    return "\n".join(lines)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        rows = drill(Path(folder), float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
    print(table(rows))
    wrong = [row for row in rows if not row.is_sound]
    print(f"\n{len(rows)} queries, {len(wrong)} empty without a reason")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
