"""What everything costs while nobody asks for anything: commands of Redis, those inside scripts included, and processor
time, of all parts of one Mac and of a gateway with three hosts."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import redis

from gateway.command.runfile import read_running
from tests.bench.report import Table
from tests.support.processes import running, wait_until
from tests.support.up import NO_SETTINGS, Up, up

_SETTLED_S = 15.0  # until nobody thinks any more that something is going on
_MEASURED_S = 20.0
_SHOWN = 8
_OUR_OWN = ("info", "client", "hello")  # commands of this measurement


def measure_idle() -> Iterator[Table]:
    """One table for each fleet, with the commands that make most of it."""
    for hosts in (1, 3):
        with tempfile.TemporaryDirectory(prefix="mlxgw-idle-") as folder, _fleet(Path(folder), hosts) as stack:
            yield _measure(stack, hosts)


@contextmanager
def _fleet(folder: Path, hosts: int) -> Iterator[Up]:
    """`up` with the echo engine, and further hosts as processes of their own, each with one model."""
    with ExitStack() as stack:
        first = stack.enter_context(up(folder))
        first.wait_until_ready()
        found = read_running(first.state)
        assert found is not None
        settings = {**NO_SETTINGS, "REDIS_URL": found.redis_url}
        for number in range(1, hosts):
            words = ("-m", "gateway.command.cli", "host", "--state", str(first.state), "--engine", "echo")
            log = folder / f"host{number}.log"
            stack.enter_context(running(*words, "--name", f"mac{number}", log=log, env=settings))
        with redis.Redis.from_url(found.redis_url) as client:
            wait_until(lambda: client.scard("mlxgw:workers") == hosts, "every host's worker", deadline_s=60)
        yield first


def _measure(stack: Up, hosts: int) -> Table:
    found = read_running(stack.state)
    assert found is not None
    time.sleep(_SETTLED_S)
    with redis.Redis.from_url(found.redis_url) as client:
        parts = _processes(stack.process.pid)
        commands, used_s, began_s = _calls(client), _used_s(parts), time.monotonic()
        time.sleep(_MEASURED_S)
        took_s = time.monotonic() - began_s
        more = _calls(client) - commands
        cpu = {name: (after - used_s[name]) / took_s for name, after in _used_s(parts).items()}
    table = Table(title=f"Idle: a gateway and {hosts} host(s), a worker each", head=("", "a second"))
    table.add("commands of Redis in all", f"{more.total() / took_s:.1f}")
    for name, count in more.most_common(_SHOWN):
        table.add(f"  {name}", f"{count / took_s:.1f}")
    table.add(
        "processor, of `up` and its children" if hosts > 1 else "processor, all parts", f"{sum(cpu.values()):.2%}"
    )
    for name, share in sorted(cpu.items(), key=lambda each: -each[1]):
        table.add(f"  {name}", f"{share:.2%}")
    return table


def _calls(client: redis.Redis) -> Counter[str]:
    stats = client.info("commandstats")
    names = {key.removeprefix("cmdstat_"): value["calls"] for key, value in stats.items()}
    return Counter({name: calls for name, calls in names.items() if name.partition("|")[0] not in _OUR_OWN})


def _processes(pid: int) -> list[tuple[str, psutil.Process]]:
    top = psutil.Process(pid)
    return [(_name(each), each) for each in (top, *top.children(recursive=True))]


def _name(process: psutil.Process) -> str:
    words = process.cmdline()
    known = {"up": "up", "gateway": "gateway", "worker.host.host": "host", "worker": "worker"}
    told = next((known[word] for word in words if word in known), "")
    if any(word.endswith("guard.py") for word in words):
        return "guards"
    return told or Path(words[0] if words else process.name()).name


def _used_s(parts: list[tuple[str, psutil.Process]]) -> Counter[str]:
    used: Counter[str] = Counter()
    for name, process in parts:
        times = process.cpu_times()
        used[name] += times.user + times.system  # type: ignore[assignment]
    return used
