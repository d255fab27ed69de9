"""The command itself, before anything of it is imported."""

from __future__ import annotations

import subprocess
import sys

_INTERRUPTED_IMPORT = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "gateway.command.stack":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from gateway.command.entry import main
sys.exit(main())
"""


def test_control_c_while_it_starts_ends_it_without_a_traceback() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (said.returncode, said.stdout, said.stderr) == (130, "", "")
