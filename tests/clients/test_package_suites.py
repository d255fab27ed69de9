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
# What the failure of a test that cannot hold says -> why it cannot.
ALLOWED = {
    r"RESPX|is not an instance of httpx\.Response": "the test mocks the network itself",
    r"stream_options: only allowed when": "the example has stream_options without stream",
    r"logit_bias\.foo": "the example's key is no token id",
    r"max_(completion_|output_)?tokens: Input should be greater": "the example asks for no token at all",
    r"(model|max_tokens): Field required": "the example names no model",
    r"input: at least one message is required": "the example compacts no conversation",
    r"after: there is no item 'after'": "the example's cursor names nothing",
    r"after_id: cannot be used together": "the example sends two cursors that exclude each other",
    r"(DELETE|POST) is not allowed on /v1/models": "models are not deleted here",
    r"for CreateEmbeddingResponse": "the package asks for base64 by itself, and its strict mode refuses it",
    r"ChatCompletionStoreMessage|in \('assistant',\)": "the package's type knows no stored message of a user",
    r"echo: log probabilities of the prompt|best_of|suffix: this model": "not available here, see docs/openai.md",
    r"prompts are not kept": "not available here, see docs/openai.md",
    r"conversation: cannot be used together": "the example names both of what exclude each other",
    r"only what (runs|ran) in the background can be": "the example's response did not run in the background",
}
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
    return Outcome(f"{case.get('classname')}::{case.get('name')}", " ".join(texts))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SUITES)
def test_the_packages_own_tests_hold_or_fail_for_a_known_reason(packages: Path, url: str, name: str) -> None:
    outcomes = run_suite(packages, name, url)
    reasons: Counter[str] = Counter()
    unknown = []
    for outcome in outcomes:
        if outcome.message:
            reason = next((why for words, why in ALLOWED.items() if re.search(words, outcome.message)), "")
            reasons[reason] += 1
            if not reason:
                unknown.append(f"{outcome.test}: {outcome.message[:300]}")
    passed = sum(not outcome.message for outcome in outcomes)
    print(f"{name}: run {len(outcomes)}, passed {passed}, allowed {sum(reasons.values()) - len(unknown)}")
    for reason, count in reasons.most_common():
        print(f"  {count} {reason}")
    assert passed > len(outcomes) / 2
    assert unknown == []
