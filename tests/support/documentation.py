"""What the README says, for tests that hold it to the code."""

from __future__ import annotations

import re

from tests.support.processes import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def documented_metrics() -> frozenset[str]:
    """Names in the first column of the README's table of metrics."""
    cells = re.findall(r"^\| (`(?:gw|wk|host|process)_[^|]*) \|", README, re.MULTILINE)
    return frozenset(name for cell in cells for name in re.findall(r"`(\w+)`", cell))
