"""What is done to a fleet: each fault is a row. What must be undone is undone once the answers are over."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.fleet import Fleet


@dataclass(frozen=True)
class Target:
    """What the fault is done to: the worker that has the requests. Their gateway is the fleet's first."""

    worker: str
    pid: int


@dataclass(frozen=True)
class Fault:
    """`is_gateway`: the client's connection breaks with it, and its retry at the other gateway is the answer."""

    name: str
    strike: Callable[[Fleet, Target], None]
    undo: Callable[[Fleet, Target], None] = lambda fleet, target: None
    is_gateway: bool = False


def _kill_worker(fleet: Fleet, target: Target) -> None:
    os.kill(target.pid, signal.SIGKILL)


def _stop_worker(fleet: Fleet, target: Target) -> None:
    os.kill(target.pid, signal.SIGSTOP)


def _go_on(fleet: Fleet, target: Target) -> None:
    with contextlib.suppress(ProcessLookupError):  # its host may have ended it
        os.kill(target.pid, signal.SIGCONT)


def _kill_gateway(fleet: Fleet, target: Target) -> None:
    fleet.gateways[0].kill_all()


def _kill_host(fleet: Fleet, target: Target) -> None:
    host = fleet.host_of(target.worker)
    host.proxy.freeze()
    host.kill_all()


def _mend_host(fleet: Fleet, target: Target) -> None:
    host = fleet.host_of(target.worker)
    host.proxy.cut()
    host.proxy.thaw()


def _restart_redis(fleet: Fleet, target: Target) -> None:
    fleet.server.process.kill()
    fleet.server.process.wait()
    time.sleep(1.0)
    fleet.server.restart()


def _restart_with_file(fleet: Fleet, target: Target) -> None:
    """What it knew a moment before it died: jobs that run by now wait in it."""
    fleet.client.save()
    time.sleep(0.3)
    _restart_redis(fleet, target)
    (fleet.server.folder / "dump.rdb").unlink()


def _pause_redis(fleet: Fleet, target: Target) -> None:
    os.kill(fleet.server.process.pid, signal.SIGSTOP)
    time.sleep(3.0)
    os.kill(fleet.server.process.pid, signal.SIGCONT)


def _cut_subscriptions(fleet: Fleet, target: Target) -> None:
    fleet.client.client_kill_filter(_type="pubsub")


def _part(fleet: Fleet, target: Target) -> None:
    fleet.host_of(target.worker).proxy.freeze()


def _join(fleet: Fleet, target: Target) -> None:
    fleet.host_of(target.worker).proxy.thaw()


def _slow_down(fleet: Fleet, target: Target) -> None:
    fleet.host_of(target.worker).proxy.delay(1.0)


def _speed_up(fleet: Fleet, target: Target) -> None:
    fleet.host_of(target.worker).proxy.delay(0.0)


def _lose_and_double(fleet: Fleet, target: Target) -> None:
    fleet.gateways[0].proxy.lose_and_double(8)


FAULTS = (
    Fault("worker killed", _kill_worker),
    Fault("worker frozen", _stop_worker, _go_on),
    Fault("gateway killed", _kill_gateway, is_gateway=True),
    Fault("Mac killed", _kill_host, _mend_host),
    Fault("Redis restarted empty", _restart_redis),
    Fault("Redis restarted with its file", _restart_with_file),
    Fault("Redis paused for 3 s", _pause_redis),
    Fault("subscriptions cut", _cut_subscriptions),
    Fault("partition", _part, _join),
    Fault("1 s latency", _slow_down, _speed_up),
    Fault("frames lost, then doubled", _lose_and_double),
)
