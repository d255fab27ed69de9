"""What no client sends: bodies and heads of chance at every route, and bytes of chance in Redis."""

from __future__ import annotations

import random
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from gateway.http.routes import ROUTES
from tests.faults.cases import Case, reference
from tests.faults.fleet import PACED, Fleet, Node
from tests.support.names import NAMES

_MEANT = {501, 503, 529, 504}  # that say: not now, or not here
_TIMEOUT_S = 2.0  # of a body that is shorter than its head says
_TOGETHER = 8
_PATHS = 40  # about as many as /openapi.json describes
_JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1e308, -1e308, 2**63, 2**64, "", "\x00", "\ud7ff", "a" * 5000, [], {}, [[]], {"": {}}),
    *([{}] * 3, {"type": "text"}, {"type": 5}, [{"type": "text", "text": 5}], "echo:fail overloaded x", "../../etc"),
)
_FIELDS = (
    *(
        "model",
        "messages",
        "max_tokens",
        "stream",
        "tools",
        "tool_choice",
        "system",
        "stop",
        "temperature",
        "n",
        "input",
    ),
    *(
        "prompt",
        "top_p",
        "top_k",
        "seed",
        "logprobs",
        "metadata",
        "thinking",
        "output_config",
        "response_format",
        "user",
    ),
    *("reasoning", "instructions", "previous_response_id", "store", "stream_options", "logit_bias", "suffix", "echo"),
)


@dataclass
class Found:
    """Statuses by how often, and what should not have come."""

    statuses: Counter[int] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


def fuzz(fleet: Fleet, requests: int, *, seed: int = 0) -> Found:
    """Raises `AssertionError` when the fleet does not answer as before afterwards."""
    found = Found()
    case = Case("after", PACED, "echo:words 5")
    before = reference(fleet, case)
    kinds: list[Callable[[random.Random], bytes]] = [
        _of_fields,
        _of_fields,
        _changed,
        _changed,
        _broken_head,
        _of_bytes,
    ]

    def one(number: int) -> tuple[int, bytes]:
        chance = random.Random(seed * 1_000_003 + number)
        if number % 20 == 0:
            _litter(fleet, chance)
        data = chance.choice(kinds)(chance)
        return _send(fleet.gateways[number % 2], data, is_read=chance.random() > 0.1), data

    with ThreadPoolExecutor(_TOGETHER) as pool:
        for status, data in pool.map(one, range(requests)):
            found.statuses[status] += 1
            if status >= 500 and status not in _MEANT:
                found.bad.append(f"{status} to {data[:500]!r}")
    assert reference(fleet, case) == before
    for node in fleet.nodes:
        if not node.is_running():
            found.bad.append(f"{node.name} has ended")
        if "Traceback" in node.outputs():
            found.bad.append(f"{node.name} has raised: {node.outputs().partition('Traceback')[2][:1000]}")
    return found


def described(fleet: Fleet, program: Path, examples: int) -> list[str]:
    """What schemathesis finds that is no answer of ours: it makes `examples` requests of our own description, and looks
    for errors of the server that are not meant."""
    port = fleet.gateways[0].port
    with Path(fleet.folder / "schemathesis.txt").open("w+") as output:
        command = [
            str(program.absolute()),
            "run",
            f"http://127.0.0.1:{port}/openapi.json",
            "--checks",
            "not_a_server_error",
        ]
        command += ["--max-examples", str(max(1, examples // _PATHS)), "--workers", "2", "--request-timeout", "20"]
        command += ["--continue-on-failure", "--no-color"]
        command += ["--exclude-path-regex", "^/admin"]  # it would make keys, and be let in no more
        subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False, cwd=fleet.folder)
        output.seek(0)
        said = output.read()
    summary = [line for line in said.splitlines() if "generated" in line or "found" in line]
    print("schemathesis:", *summary or said.splitlines()[-20:], sep="\n", flush=True)
    statuses = {int(found) for found in re.findall(r"\[(5\d\d)\]", said)}
    return [f"schemathesis met {status}: see {output.name}" for status in sorted(statuses - _MEANT)]


def _head(chance: random.Random, length: int) -> bytes:
    route = chance.choice(ROUTES)
    path = route.path.replace("{id}", chance.choice(["x", "%00", "a" * 300, "..%2f"]))
    method = chance.choice([*(route.methods or ["GET"]), "POST", "POST"])
    return (
        f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"connection: close\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def _value(chance: random.Random, depth: int = 0) -> Any:
    if depth < 3 and chance.random() < 0.4:
        made = [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        return made if chance.random() < 0.5 else {chance.choice(_FIELDS): value for value in made}
    return chance.choice(_JUNK)


def _request(chance: random.Random, body: Any) -> bytes:
    data = orjson.dumps(body, default=str)
    return _head(chance, len(data)) + data


def _dumpable(value: Any) -> Any:
    """(orjson takes integers of 64 bits alone.)"""
    if isinstance(value, dict):
        return {key: _dumpable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_dumpable(each) for each in value]
    return str(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def _of_fields(chance: random.Random) -> bytes:
    return _request(chance, _dumpable({name: _value(chance) for name in chance.sample(_FIELDS, chance.randrange(9))}))


def _changed(chance: random.Random) -> bytes:
    """A good body with a field or two of chance."""
    body: dict[str, Any] = {
        "model": PACED,
        "max_tokens": 20,
        "messages": [{"role": "user", "content": "hello"}],
        "input": "hello",
        "prompt": "hello",
        "stream": chance.random() < 0.5,
    }
    body |= {name: _value(chance) for name in chance.sample(_FIELDS, chance.randrange(1, 3))}
    return _request(chance, _dumpable(body))


def _broken_head(chance: random.Random) -> bytes:
    data = bytearray(_changed(chance))
    for _ in range(chance.randrange(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _of_bytes(chance: random.Random) -> bytes:
    data = chance.randbytes(chance.randrange(2000))
    return _head(chance, len(data)) + data


def _send(node: Node, data: bytes, *, is_read: bool) -> int:
    """The status; 0 where none came."""
    try:
        with socket.create_connection(("127.0.0.1", node.port), timeout=_TIMEOUT_S) as client:
            client.sendall(data)
            if not is_read:
                return 0
            start = client.recv(64)
            while is_read and client.recv(1 << 16):
                pass
    except OSError:
        return 0
    words = start.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _litter(fleet: Fleet, chance: random.Random) -> None:
    """What somebody else might write where frames, bodies, jobs and leases are read: bytes of chance, and what is there
    with some of its bytes changed."""
    client, data = fleet.client, chance.randbytes(chance.randrange(200))
    lease = chance.choice(fleet.leases(PACED))
    channels = [name for name in client.pubsub_channels(f"{NAMES.deployment}:*") if isinstance(name, bytes)]  # type: ignore[union-attr]
    said = _said(fleet, chance)
    for each in (data, _mutated(said, chance), said):  # (The last one is a true frame, once more, and somewhere else.)
        client.publish(chance.choice(channels), each)
    body = f"{NAMES.body_prefix(lease.worker.partition('.')[0])}fuzz-1"
    client.set(body, chance.choice((data, _mutated(_stored(fleet, chance), chance))), ex=60)
    client.hset("rq:job:fuzz-1", mapping={"status": "queued", "data": data, "origin": "x"})
    client.expire("rq:job:fuzz-1", 60)
    client.rpush(f"rq:queue:{NAMES.worker_queue(lease.model, lease.worker, 'interactive')}", "fuzz-1", data)
    client.lpush(NAMES.bell(lease.worker), 1)


def _said(fleet: Fleet, chance: random.Random) -> bytes:
    """A frame that a worker has logged."""
    logs = list(fleet.client.scan_iter(f"{NAMES.deployment}:log:*"))
    rows: Any = fleet.client.xrevrange(chance.choice(logs), count=1) if logs else []
    return bytes(rows[0][1].get(b"f", b"")) if rows else b""


def _stored(fleet: Fleet, chance: random.Random) -> bytes:
    """Whatever a key of ours holds now: a lease, a record, a body."""
    keys = list(fleet.client.scan_iter(f"{NAMES.deployment}:*", _type="string"))
    found = fleet.client.get(chance.choice(keys)) if keys else b""
    return found if isinstance(found, bytes) else b""


def _mutated(data: bytes, chance: random.Random) -> bytes:
    """With a byte or a few changed, cut off, or said twice."""
    changed = bytearray(data or b"\0")
    for _ in range(chance.randrange(1, 5)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(chance.choice((changed, changed[: chance.randrange(len(changed))], changed * 2)))


def lines(found: Found) -> Iterator[str]:
    """For people."""
    yield f"statuses: {dict(sorted(found.statuses.items()))}"
    yield from (f"bad: {bad}" for bad in found.bad)
