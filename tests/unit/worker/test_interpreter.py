"""Threads beside the engine's get Python soon, and leave it soon."""

from __future__ import annotations

import gc
import subprocess
import sys

from tests.support.processes import REPOSITORY

CODE = """
import gc, sys
from worker.interpreter import share_python, freeze_objects
share_python()
kept = [[] for _ in range(1000)]
freeze_objects()
print(sys.getswitchinterval(), gc.get_freeze_count() > 1000, any(kept is each for each in gc.get_objects()))
"""


def test_python_is_shared_and_what_was_loaded_is_not_collected_again() -> None:
    """In a process of its own: both are for the whole life of one."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == ["0.0005", "True", "False"]
    assert gc.get_freeze_count() == 0
