"""The official packages' own tests, from their source distributions, against a gateway: every one holds, or fails for a
reason that is known here.

What is asked by the packages' examples is made first (`seeded_proxy`). Tests that talk to a network of their own
(`respx`) reach no server and say nothing of ours.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.clients.seeded_proxy import seeded
from tests.models.bert_checkpoint import build_bert
from tests.support.served import served

SUITES = {
    "openai": ("chat", "responses", "test_responses.py", *(f"test_{name}.py" for name in (
        "completions", "embeddings", "files", "batches", "models",
    ))),
    "anthropic": ("messages", "test_messages.py", "test_models.py", "test_files.py"),
}  # fmt: skip
# By package: tests that cannot hold, exactly, with what their failure says and why. Any other failure is one of ours.
KNOWN = json.loads((Path(__file__).parent / "known_failures.json").read_text())
_PREFIX = "tests.api_resources."
NEEDED = (
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "respx",
    "http-snapshot",
    "inline-snapshot",
    "rich",
    "nest_asyncio",
)
DOWNLOAD = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")


@dataclass(frozen=True)
class Outcome:
    test: str
    message: str  # empty: it passed


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an interpreter for the suites, `bin/python`, and both source distributions, unpacked."""
    folder = tmp_path_factory.mktemp("packages")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    exact = [f"openai[aiohttp]=={version('openai')}", f"anthropic=={version('anthropic')}", "httpx_aiohttp"]
    for command in (
        (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *exact, *NEEDED),
        *((*DOWNLOAD, "--no-binary", ":all:", "--dest", str(folder), f"{name}=={version(name)}") for name in SUITES),
    ):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"the packages cannot be fetched: {' '.join(command[-3:])}")
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return folder


@pytest.fixture
def url(redis_url: str, tmp_path: Path) -> Iterator[str]:
    """Whatever model is asked for is the echo engine, and the tiny embedding model where the name says so."""
    build_bert(tmp_path / "tiny")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "model_aliases.json").write_text(json.dumps({"text-embedding*": "tiny", "*": "echo"}))
    tiny = {"engine": "embeddings", "source": str(tmp_path / "tiny")}
    with served(redis_url, tmp_path, config_dir=tmp_path / "config") as gateway:
        with gateway.worker(), gateway.worker("tiny", **tiny), seeded(gateway.port) as port:
            yield f"http://127.0.0.1:{port}"


def run_suite(packages: Path, name: str, url: str) -> list[Outcome]:
    """The tests of blocking clients; those of asynchronous ones ask for the same."""
    folder = packages / f"{name}-{version(name)}"
    report = packages / f"{name}.xml"
    files = [f"tests/api_resources/{file}" for file in SUITES[name]]
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-k", "not Async", "--timeout", "60"]
    command = [packages / "bin" / "python", "-m", "pytest", *options, f"--junitxml={report}", *files]
    environment = {**os.environ, "TEST_API_BASE_URL": url}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    return [_outcome(case) for case in ElementTree.parse(report).iter("testcase")]


def _outcome(case: ElementTree.Element) -> Outcome:
    texts = [f"{fault.get('message')} {fault.text}" for tag in ("failure", "error") for fault in case.findall(tag)]
    test = f"{case.get('classname')}::{case.get('name')}".removeprefix(_PREFIX)
    return Outcome(test, " ".join(texts))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SUITES)
def test_the_packages_own_tests_hold_or_fail_for_a_known_reason(packages: Path, url: str, name: str) -> None:
    outcomes = run_suite(packages, name, url)
    allowed = {test: group for group in KNOWN[name] for test in group["tests"]}
    failed: dict[str, str] = {}
    for each in outcomes:  # a test whose end fails, too, is there twice
        if each.message:
            failed[each.test] = failed.get(each.test, "") + each.message
    unknown = {
        test: message[:300]
        for test, message in failed.items()
        if test not in allowed or not re.search(allowed[test]["says"], message)
    }
    reasons = Counter(allowed[test]["why"] for test in failed if test not in unknown)
    tests = {each.test for each in outcomes}
    passed = len(tests) - len(failed)
    print(f"{name}: run {len(tests)}, passed {passed}, allowed {reasons.total()}")
    for reason, count in reasons.most_common():
        print(f"  {count} {reason}")
    assert passed > len(failed)
    assert unknown == {}
    assert allowed.keys() <= tests, "tests that are no more"
