"""Tries the newest releases of mlx and mlx-lm against what the worker relies on: `python -m tests.newest`.

Everything is installed into a folder of its own, which goes afterwards; nothing of this checkout changes. What is
shown: the versions, and of each contract how many of its tests passed. A release that passes may be pinned, after the
lines of `MLX_LM_INTERNALS` and the code that they name were read again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
NEWEST = ("mlx", "mlx-lm")
ALSO_SHOWN = ("mlx", "mlx-lm", "transformers", "llguidance", "numpy", "tokenizers")
PIN = "test_mlx_lm_is_the_version_whose_internals_were_read"  # fails with any other version, by its nature

CONTRACTS: Mapping[str, Sequence[str]] = {
    "internals, cache classes, parsers": ("test_mlx_lm_contract",),
    "caches kept, cut, rewound, stored": ("test_mlx_buffers", "test_mlx_rewind", "test_mlx_disk"),
    "batches say what rows say alone": ("test_mlx_trial", "test_mlx_equality"),
    "models found and loaded in pieces": ("test_mlx_models", "test_mlx_loading", "test_mlx_memory_sizes"),
    "tokens, calls and reasoning read": ("test_detokenize", "test_tool_calls", "test_reasoning_families"),
    "sampling, drafts, grammars": ("test_mlx_sampling", "test_draft_model", "test_mlx_constraints"),
    "the engine as a whole": ("test_mlx_engine", "test_mlx_resume", "test_mlx_vision", "test_mlx_harmony"),
}
_ALL_ARCHITECTURES = "tests/models/test_architectures.py"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_REASON = 160  # characters


@dataclass(slots=True)
class Outcome:
    """Of the tests of one contract. `failed` maps a test to what it said."""

    passed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)


def requirements(project: Mapping[str, object]) -> list[str]:
    """All that the worker and its tests need, of `NEWEST` whatever version there is."""
    table = project["project"]
    groups = project["dependency-groups"]
    assert isinstance(table, dict)
    assert isinstance(groups, dict)
    wanted = [*table["dependencies"], *table["optional-dependencies"]["mlx"], *groups["dev"]]
    return [unbounded(each) if _name_of(each) in NEWEST else each for each in wanted]


def _name_of(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found.group() if found else ""


def unbounded(requirement: str) -> str:
    """Without its versions: `mlx[cpu]>=0.32; marker` is `mlx[cpu]; marker`."""
    wanted, semicolon, marker = requirement.partition(";")
    return re.sub(r"[<>=!~].*", "", wanted).strip() + semicolon + marker


def read_outcomes(report: str) -> dict[str, Outcome]:
    """By the module of the tests, from pytest's JUnit report. The pin says nothing here."""
    found: dict[str, Outcome] = {}
    for case in ET.fromstring(report).iter("testcase"):
        name = case.get("name", "")
        if name.startswith(PIN):
            continue
        module = case.get("classname") or name  # one that cannot be imported has no cases, but a name
        outcome = found.setdefault(module.rpartition(".")[2], Outcome())
        outcome.seconds += float(case.get("time", 0.0))
        trouble = case.find("failure") if case.find("failure") is not None else case.find("error")
        if trouble is not None:
            outcome.failed[name] = _reason(trouble)
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed += 1
    return found


def _reason(trouble: ET.Element) -> str:
    """In one line. Of a module that cannot be imported the last line of the error says most."""
    told = [line.removeprefix("E").strip() for line in (trouble.text or "").splitlines() if line.startswith("E ")]
    message = trouble.get("message", "").partition("\n")[0]
    return (told[-1] if told and message == "collection failure" else message)[:_REASON]


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    total = Outcome()
    for each in outcomes:
        total.passed += each.passed
        total.skipped += each.skipped
        total.seconds += each.seconds
        total.failed |= each.failed
    return total


def render(here: Mapping[str, str], newest: Mapping[str, str], by_module: Mapping[str, Outcome]) -> str:
    """The tables, and what failed."""
    rows = [("", "here", "newest"), *((name, here.get(name, "-"), newest.get(name, "-")) for name in ALSO_SHOWN)]
    contracts = {name: merged([by_module[m] for m in modules if m in by_module]) for name, modules in CONTRACTS.items()}
    known = {module for modules in CONTRACTS.values() for module in modules}
    contracts |= {module: outcome for module, outcome in by_module.items() if module not in known}
    counts = [("contract", "passed", "failed", "skipped", "s")]
    for name, outcome in contracts.items():
        numbers = (outcome.passed, len(outcome.failed), outcome.skipped, round(outcome.seconds))
        counts.append((name, *map(str, numbers)))
    failed = [f"{test}: {reason}" for outcome in contracts.values() for test, reason in outcome.failed.items()]
    return "\n".join([*_table(rows), "", *_table(counts), "", *(failed or ["everything holds"])])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


# --- effects ------------------------------------------------------------------------------------------------------


def install(folder: Path, *, pre: bool, releases: Sequence[str] = ()) -> Path:
    """A Python in `folder` with everything, of some packages these `releases`; where it lies."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", *(["--pre"] if pre else []), *requirements(project), *releases], check=True)
    return python


def versions(python: Path | str) -> dict[str, str]:
    listed = subprocess.run(
        [str(python), "-c", _LIST, *ALSO_SHOWN], check=True, capture_output=True, text=True, cwd=REPOSITORY
    )
    found: dict[str, str] = json.loads(listed.stdout)
    return found


_LIST = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def run_tests(python: Path, report: Path, *, with_architectures: bool) -> str:
    """Pytest's JUnit report. Raises `RuntimeError` when there is none."""
    files = [f"tests/unit/worker/{module}.py" for modules in CONTRACTS.values() for module in modules]
    if with_architectures:
        files.append(_ALL_ARCHITECTURES)
    command = [str(python), "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command.append("--continue-on-collection-errors")
    # New releases may warn of what they will drop: that is for reading, not a failure.
    status = subprocess.run([*command, "-W", "default", "--tb=short", *files], cwd=REPOSITORY).returncode
    if not report.is_file():
        raise RuntimeError(f"pytest ended with status {status} and left no report")
    return report.read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description="Try the newest mlx and mlx-lm against what the worker relies on.")
    parser.add_argument("--pre", action="store_true", help="also releases that are candidates only")
    parser.add_argument("--architectures", action="store_true", help="also every architecture, for many minutes")
    parser.add_argument(
        "--release", action="append", default=[], metavar="NAME==VERSION", help="instead of the newest; repeatable"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlx-gateway-newest-") as name:
        python = install(Path(name) / "venv", pre=options.pre, releases=options.release)
        report = run_tests(python, Path(name) / "report.xml", with_architectures=options.architectures)
        outcomes = read_outcomes(report)
        print(f"\n{render(versions(sys.executable), versions(python), outcomes)}")
    return 1 if any(outcome.failed for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
