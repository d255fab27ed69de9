"""What tests start does not outlive a runner that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.support.processes import REPOSITORY, is_running, wait_until

RUNNER = """
import subprocess, sys, time
from tests.support.undertaker import begin
begin()
stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_what_a_killed_runner_had_started_is_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", RUNNER], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        child = int(runner.stdout.readline())
        assert is_running(child)
        os.kill(runner.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(child), "it ends")
