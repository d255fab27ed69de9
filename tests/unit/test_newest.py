"""What the job that tries the newest mlx-lm installs, and how it reads what came of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.newest import CONTRACTS, PIN, REPOSITORY, Outcome, read_outcomes, render, requirements, unbounded

REPORT = """<testsuites><testsuite>
<testcase classname="tests.unit.worker.test_mlx_lm_contract" name="test_one" time="0.5" />
<testcase classname="tests.unit.worker.test_mlx_lm_contract" name="test_two[KVCache]" time="0.5">
  <failure message="AssertionError: fields differ&#10;more">trace</failure></testcase>
<testcase classname="tests.unit.worker.test_mlx_lm_contract" name="PIN" time="0.1"><failure message="pin" /></testcase>
<testcase classname="tests.unit.worker.test_mlx_disk" name="test_three" time="2"><skipped message="no" /></testcase>
<testcase classname="" name="tests.unit.worker.test_mlx_trial" time="0"><error message="collection failure">
ImportError while importing test module
E   ModuleNotFoundError: No module named 'mlx_lm.processors'
</error></testcase>
<testcase classname="tests.models.test_architectures" name="test_four" time="1"><error message="import" /></testcase>
</testsuite></testsuites>""".replace("PIN", PIN)


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("mlx>=0.32; sys_platform == 'darwin'", "mlx; sys_platform == 'darwin'"),
        ("mlx[cpu]>=0.32; sys_platform == 'linux'", "mlx[cpu]; sys_platform == 'linux'"),
        ("mlx-lm>=0.32.2,<0.33", "mlx-lm"),
        ("mlx", "mlx"),
    ],
)
def test_a_requirement_loses_its_versions_and_nothing_else(requirement: str, expected: str) -> None:
    assert unbounded(requirement) == expected


def test_only_mlx_and_mlx_lm_are_taken_as_new_as_they_are() -> None:
    wanted = requirements(tomllib.loads((REPOSITORY / "pyproject.toml").read_text()))
    assert "mlx-lm" in wanted
    assert [each for each in wanted if each.startswith("rq")] == ["rq>=2.12,<2.13"]
    assert any(each.startswith("pytest>=") for each in wanted)


def test_the_tests_of_all_contracts_exist_and_so_does_the_pin() -> None:
    folder = Path(REPOSITORY) / "tests" / "unit" / "worker"
    assert [m for modules in CONTRACTS.values() for m in modules if not (folder / f"{m}.py").is_file()] == []
    assert f"def {PIN}(" in (folder / "test_mlx_lm_contract.py").read_text()


def test_the_report_says_what_holds_and_what_does_not() -> None:
    outcomes = read_outcomes(REPORT)
    assert outcomes["test_mlx_lm_contract"] == Outcome(
        passed=1, seconds=1.0, failed={"test_two[KVCache]": "AssertionError: fields differ"}
    )
    text = render({"mlx-lm": "0.32.2"}, {"mlx-lm": "0.33.0"}, outcomes).splitlines()
    assert any(line.split() == ["mlx-lm", "0.32.2", "0.33.0"] for line in text)
    rows = {line[:33].strip(): line[33:].split() for line in text}
    assert rows["internals, cache classes, parsers"] == ["1", "1", "0", "1"]
    assert rows["caches kept, cut, rewound, stored"] == ["0", "0", "1", "2"]
    assert rows["test_architectures"] == ["0", "1", "0", "1"]
    assert rows["batches say what rows say alone"] == ["0", "1", "0", "0"]
    assert text[-3:] == [
        "test_two[KVCache]: AssertionError: fields differ",
        "tests.unit.worker.test_mlx_trial: ModuleNotFoundError: No module named 'mlx_lm.processors'",
        "test_four: import",
    ]


def test_where_nothing_fails_everything_holds() -> None:
    assert render({}, {}, {}).endswith("everything holds")
