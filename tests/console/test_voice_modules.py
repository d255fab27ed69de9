"""What voice decides, without a browser: `node --test` on the page's own modules. Skipped where there is no node."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "voice"


def test_the_modules_of_voice_decide_as_they_should() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("VOICE IS NOT TESTED HERE: there is no node on the PATH")
    asked = [
        node,
        "-p",
        "process.features.require_module",
    ]  # from 20.19 and 22.12 on, modules need no name of their own
    if subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() != "true":
        pytest.skip("VOICE IS NOT TESTED HERE: node is older than 20.19")
    files = [str(path) for path in sorted(TESTS.glob("*.test.mjs"))]
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", *files],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) >= 140
