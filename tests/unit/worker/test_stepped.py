"""The thread of a stepped engine: its turns at the device, its stall clock, and the order of what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest

from shared.config import load_settings
from shared.registry import ModelSpec
from tests.support.processes import wait_until
from tests.unit.worker.test_echo import ask
from worker.device.turns import Turns
from worker.engines.base import Output
from worker.engines.echo import EchoEngine
from worker.engines.stall import StallClock
from worker.engines.stepped import SteppedEngine


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_stall_clock_counts_work_since_the_last_sign_of_life() -> None:
    time = Clock()
    clock = StallClock(time)
    with clock.running():
        time.now_s += 2
        assert clock.silent_s == 2
    time.now_s += 50  # another process had the device
    assert clock.silent_s == 2
    with clock.running():
        time.now_s += 1
        assert clock.silent_s == 3
        clock.alive()
        time.now_s += 4
        assert clock.silent_s == 4
    clock.alive()
    assert clock.silent_s == 0


class Heard:
    def __init__(self) -> None:
        self.outputs: list[Output] = []

    def emit(self, outputs: Sequence[Output]) -> None:
        self.outputs += outputs

    def alive(self) -> None:
        pass

    def broken(self, error: BaseException) -> None:
        raise error


class SharedEcho(EchoEngine):
    """The echo engine, at a device of several processes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ModelSpec(id="echo", source="echo", engine="echo"), load_settings(environ={}))
        self._folder = folder

    def open_turns(self) -> Turns | None:
        return Turns(self._folder, lambda: None)


@contextmanager
def at_work(core: EchoEngine) -> Iterator[tuple[SteppedEngine, Heard]]:
    engine, heard = SteppedEngine(core), Heard()
    engine.load(lambda done: None)
    engine.start(heard)
    try:
        yield engine, heard
    finally:
        assert engine.unload(10.0)


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Turns]:
    """The other process at the device."""
    turns = Turns(tmp_path, lambda: None)
    yield turns
    turns.close()


def test_waiting_for_the_device_is_no_stall(tmp_path: Path, neighbour: Turns) -> None:
    """Else one hung worker would make all its neighbours look hung, and all would be ended."""
    with at_work(SharedEcho(tmp_path)) as (engine, heard):
        neighbour.take()
        engine.submit(engine.prepare(ask("echo:hang")))
        wait_until(lambda: neighbour._is_wanted(), "the engine waits for its turn")
        waited_s = engine.stats().stalled_s
        assert waited_s is not None
        assert waited_s < 1
        assert engine.stats().stalled_s == waited_s  # the clock stands still
        assert heard.outputs == []
        neighbour.offer(is_idle=True)
        wait_until(lambda: heard.outputs, "the first step")
        wait_until(lambda: (engine.stats().stalled_s or 0) > 0.02, "its own silence counts")
        engine.cancel("r1")


class Chores(SharedEcho):
    """Has something to do at the device when it is idle, as long as `due`."""

    def __init__(self, folder: Path, *, due: bool) -> None:
        super().__init__(folder)
        self.due = due
        self.idled = 0
        self.rest_s: float | None = 0.1

    def needs_turn(self) -> bool:
        return self.due

    def idle(self) -> float | None:
        self.idled += 1
        return self.rest_s


def test_what_is_done_when_idle_has_a_turn_at_the_device_and_waiting_for_it_is_no_stall(
    tmp_path: Path, neighbour: Turns
) -> None:
    core = Chores(tmp_path, due=True)
    neighbour.take()
    with at_work(core) as (engine, _):
        wait_until(lambda: neighbour._is_wanted(), "the idle engine waits for its turn")
        assert core.idled == 0
        assert engine.stats().stalled_s == 0
        neighbour.offer(is_idle=True)
        wait_until(lambda: core.idled, "it has its turn")


def test_an_idle_engine_with_nothing_to_do_at_the_device_leaves_it_alone(tmp_path: Path, neighbour: Turns) -> None:
    core = Chores(tmp_path, due=False)
    neighbour.take()
    with at_work(core):
        wait_until(lambda: core.idled > 1, "it idles while another has the device")
        assert not neighbour._is_wanted()
    neighbour.offer(is_idle=True)


def test_the_device_is_left_while_work_waits_for_something_else(tmp_path: Path, neighbour: Turns) -> None:
    """For the disk, for an image, for memory."""
    core = SharedEcho(tmp_path)
    waited: list[bool] = []

    def wait() -> None:
        neighbour.take()  # would wait for ever
        neighbour.offer(is_idle=True)
        waited.append(True)

    core.wait = wait  # type: ignore[method-assign]
    with at_work(core) as (engine, _):
        engine.submit(engine.prepare(ask("echo:hang")))
        wait_until(lambda: waited, "the device is free meanwhile")
        engine.cancel("r1")


def test_the_device_is_left_when_there_is_no_more_work(tmp_path: Path, neighbour: Turns) -> None:
    with at_work(SharedEcho(tmp_path)) as (engine, heard):
        engine.submit(engine.prepare(ask("one two")))
        wait_until(lambda: len(heard.outputs) == 3, "the answer")
        neighbour.take()
        neighbour.offer(is_idle=True)


def test_what_it_is_told_is_obeyed_in_order(tmp_path: Path) -> None:
    with at_work(SharedEcho(tmp_path)) as (engine, heard):
        first, second = (engine.prepare(ask("echo:words 20", id=name)) for name in ("first", "second"))
        engine.submit(first)
        engine.cancel("first")
        engine.submit(second)
        wait_until(lambda: len([o for o in heard.outputs if o.key == "second"]) == 21, "the second's answer")
        assert len([o for o in heard.outputs if o.key == "first"]) < 21


class Interrupted(SharedEcho):
    """Something comes while its first word is made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.meanwhile: list[Callable[[], None]] = []

    def _decode(self) -> list[Output]:
        outputs = super()._decode()
        while outputs and self.meanwhile:
            self.meanwhile.pop(0)()
        return outputs


def said(heard: Heard, most: int) -> list[str]:
    wait_until(lambda: len(heard.outputs) >= most, "what was said")
    return [output.key for output in heard.outputs[:most]]


def test_who_comes_while_a_word_is_made_does_not_wait_for_the_next(tmp_path: Path) -> None:
    """Nor is it held up by what makes place for it."""
    core = Interrupted(tmp_path)
    with at_work(core) as (engine, heard):
        first, second = (engine.prepare(ask("echo:words 20", id=name)) for name in ("first", "second"))
        core.meanwhile = [lambda: engine.pause(first.key), lambda: engine.submit(second)]
        engine.submit(first)
        wait_until(lambda: len(heard.outputs) >= 4, "what was said")
        assert [output.key for output in heard.outputs[:3]] == [first.key, first.key, second.key]


def test_a_stop_in_the_middle_of_a_step_ends_the_engine_behind_it(tmp_path: Path) -> None:
    core = Interrupted(tmp_path)
    with at_work(core) as (engine, heard):

        def stop() -> None:
            stopping = Thread(target=engine.unload, args=(0.0,))
            stopping.start()
            stopping.join()

        core.meanwhile = [stop]
        engine.submit(engine.prepare(ask("echo:words 20")))
        wait_until(lambda: len(heard.outputs) == 2, "the first word")
        assert engine.unload(10.0)
    assert [len(output.token_ids) for output in heard.outputs] == [0, 1]


class Inbox(SimpleQueue[Any]):
    """Tells how long it is waited at."""

    def __init__(self) -> None:
        self.waits: list[float | None] = []

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self.waits.append(timeout)
        return super().get(block, timeout)


@pytest.mark.parametrize(("rest_s", "is_longest"), [(None, True), (1.0, False)])
def test_an_engine_that_nothing_is_ever_left_over_for_is_woken_by_messages_alone(
    tmp_path: Path, rest_s: float | None, is_longest: bool
) -> None:
    core = Chores(tmp_path, due=False)
    core.rest_s = rest_s
    engine, inbox = SteppedEngine(core), Inbox()
    engine._inbox = inbox
    engine.load(lambda done: None)
    wait_until(lambda: len(inbox.waits) > 1, "the wait after an idle moment")
    try:
        assert (inbox.waits[1] is None) is is_longest
    finally:
        assert engine.unload(10.0)
