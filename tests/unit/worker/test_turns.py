"""Processes of one host take turns at the device."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from itertools import groupby, pairwise

from worker.device import turns as device_turns
from worker.device.turns import Turns, read_holder

# Each process writes down when its turns began and ended, in nanoseconds of the same clock.
USER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from worker.device.turns import Turns

    folder, seconds, work_s = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    turns = Turns(folder, lambda: None)
    sys.stdin.readline()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        turns.take()
        began = time.monotonic_ns()
        end = time.perf_counter() + work_s
        while time.perf_counter() < end:
            pass
        ended = time.monotonic_ns()
        turns.offer(is_idle=False)
        print(began, ended)
    """
)


def users(folder, *work_s, seconds=1.0):
    """The turns of concurrent processes, as lists of (began, ended)."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", USER, str(folder), str(seconds), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for work in work_s
    ]
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in started]
    return [[tuple(map(int, line.split())) for line in output.splitlines()] for output in outputs]


def test_turns_of_two_processes_never_overlap_and_neither_starves(tmp_path):
    mine, theirs = users(tmp_path, 0.002, 0.008)
    turns = sorted((*span, name) for name, spans in (("mine", mine), ("theirs", theirs)) for span in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(turns))
    first_s, last_s = max(mine[0][0], theirs[0][0]), min(mine[-1][0], theirs[-1][0])
    both = [name for began, _, name in turns if first_s <= began <= last_s]
    assert len(both) > 20
    runs = sorted(len(list(run)) for _, run in groupby(both))
    assert runs[len(runs) // 2] <= 2, "as a rule one process had several turns in a row while the other waited"


def holder(folder):
    """Another process that has the device until it reads a line, and then stays alive."""
    code = "import sys; from pathlib import Path; from worker.device.turns import Turns\n"
    code += f"turns = Turns(Path({str(folder)!r}), lambda: None)\nturns.take(); print('in', flush=True)\n"
    code += "sys.stdin.readline(); turns.offer(is_idle=True); print('out', flush=True); sys.stdin.readline()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "in\n"
    return process


def test_a_process_that_dies_in_its_turn_frees_the_device(tmp_path):
    other = holder(tmp_path)
    other.kill()
    other.communicate()
    turns = Turns(tmp_path, lambda: None)
    turns.take()
    turns.close()


def test_a_process_alone_keeps_the_device_until_it_is_idle(tmp_path, monkeypatch):
    monkeypatch.setattr(device_turns, "_WAITED_S", 60.0)  # whoever waits for a processor has not waited for others
    settled = []
    turns = Turns(tmp_path, lambda: settled.append("settled"))
    for _ in range(10):
        turns.take()
        turns.offer(is_idle=False)
    assert settled == []
    assert not turns.is_contended
    turns.offer(is_idle=True)
    assert settled == ["settled"]
    other = holder(tmp_path)
    other.communicate("\n\n")
    turns.close()
    turns.close()


def test_a_process_that_had_to_wait_says_so(tmp_path):
    other = holder(tmp_path)
    waiter = Turns(tmp_path, lambda: None)
    releaser = threading.Timer(0.2, other.stdin.write, ["\n"])
    releaser.start()
    waiter.take()
    assert waiter.is_contended
    assert waiter.waited_s > 0.01
    releaser.join()
    other.communicate("\n")
    waiter.close()


def test_the_device_is_at_rest_when_it_changes_hands(tmp_path):
    """The one that leaves settles first, and only because somebody waits."""
    settled = []
    turns = Turns(tmp_path, lambda: settled.append(time.monotonic()))
    turns.take()
    entered = []

    def wait_in_line():
        other = holder(tmp_path)
        entered.append(time.monotonic())
        other.communicate("\n\n")

    thread = threading.Thread(target=wait_in_line)
    thread.start()
    deadline = time.monotonic() + 30
    while not settled and time.monotonic() < deadline:
        turns.offer(is_idle=False)
    thread.join()
    assert settled
    assert settled[0] <= entered[0]
    assert turns.is_contended
    turns.close()


def test_who_has_the_device_says_so_and_since_when_it_has_been_at_its_work(tmp_path):
    assert read_holder(tmp_path) is None
    turns = Turns(tmp_path, lambda: None)
    began_s = time.monotonic()
    turns.take()
    first = read_holder(tmp_path)
    assert first.pid == os.getpid()
    assert began_s <= first.since_s <= time.monotonic()
    turns.offer(is_idle=False)  # nobody waits: it stays, for the next piece
    turns.take()
    assert read_holder(tmp_path).since_s > first.since_s
    turns.offer(is_idle=True)
    assert read_holder(tmp_path) is None
    with turns.turn():
        assert read_holder(tmp_path).pid == os.getpid()
    assert read_holder(tmp_path) is None
    turns.take()
    turns.close()
    assert read_holder(tmp_path) is None


def test_a_process_that_waits_for_the_device_is_not_taken_for_the_one_that_has_it(tmp_path):
    other = holder(tmp_path)
    waiter = Turns(tmp_path, lambda: None)
    waiting = threading.Thread(target=waiter.take)
    waiting.start()
    other_turns = Turns(tmp_path, lambda: None)
    while not other_turns._is_wanted():
        time.sleep(0.001)
    assert read_holder(tmp_path).pid == other.pid
    other.kill()
    other.communicate()
    waiting.join()
    assert read_holder(tmp_path).pid == os.getpid()
    waiter.close()
    other_turns.close()


def test_a_holders_record_that_is_half_written_says_nothing(tmp_path):
    with Turns(tmp_path, lambda: None).turn():
        record = (tmp_path / "device.holder").read_bytes()
        for broken in (b"", record[:5], record[:-1], bytes(len(record)), record[:3] + b"x" + record[4:]):
            (tmp_path / "device.holder").write_bytes(broken)
            found = read_holder(tmp_path)
            assert found is None or broken == record
