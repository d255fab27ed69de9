"""A host whose disk takes nothing more says so, and goes on. (A limit on files stands for a full disk.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_LIMITED = """
import resource, signal, sys
from pathlib import Path
from worker.host.figures import MachineFigures
from worker.host.pressure import PressureFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
figures = MachineFigures(Path(sys.argv[1]), PressureFile(Path("none")))
print("disk_free_bytes" in figures.read(), figures.disk_trouble)
"""


def test_its_figures_go_on_and_it_names_the_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"True nothing can be written to {tmp_path}: ")
    assert "caches and logs are not kept until it can" in done.stderr
    assert list(tmp_path.iterdir()) == []
