"""Suites that others have written for endpoints like ours, pointed at a stack: every test holds, or fails for a reason
that is known here. The packages are fetched by the test, into places of their own.

The models say given texts (`tests.models.scripted_checkpoint`), or are the small trained one: what fails is ours.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.npm import install
from tests.clients.packages import interpreter
from tests.models.call_templates import template_of
from tests.models.scripted_checkpoint import build_scripted, cue
from tests.support.models import AGENT_FULL
from tests.support.up import up
from worker.formats.families import FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CANARY = "0.2.2"
LANGCHAIN = ("langchain-tests", "langchain-openai", "langchain-anthropic", "pytest-timeout")
# What the failure of a test that cannot hold says -> why it cannot.
ALLOWED = {
    "test_unicode_tool_call.*Unicode characters not found": "in a demanded call its words are chance",
    "test_structured_output.*(LengthFinishReason|max_tokens|validation error|Invalid JSON|JSONDecode|'arguments')": (
        "its words do not follow on what a schema forces, so that a text may have no end, or names of its own"
    ),
}

JOKE = {"setup": "Why did the cat sit on the keyboard?", "punchline": "To keep an eye on the mouse."}
CALLS = {
    "magic_function": {"input": 3},
    "magic_function_no_args": {},
    "greeting_generator": {"answer_style": "Pirate"},
    "my_adder_tool": {"a": 3, "b": 4},
    "get_weather": {"location": "San Francisco, CA"},
    "unicode_customer": {"customer_name": "你好こんにちは", "description": "a company"},
    "Joke": JOKE,
    "JokeDict": JOKE,
}
TEXTS = {"": "Hello there, friend.", "json": json.dumps(JOKE, ensure_ascii=False)}
# The call of the first tool that is known, unless a result was the last word; a joke is asked for as JSON.
CHOICE = """\
{%- if add_generation_prompt -%}
{%- set names = (tools or []) | map(attribute='function.name') | list -%}
{%- set last = messages[-1] -%}
{%- if last.role == 'tool' -%}{{ 'x' }}
CALLS
{%- elif 'joke' in (last.content | string) -%}{{ 'JSON' }}
{%- endif -%}
{%- endif -%}"""


def build(out: Path) -> Path:
    calls = {
        name: f"<tool_call>\n{json.dumps({'name': name, 'arguments': values}, ensure_ascii=False)}\n</tool_call>"
        for name, values in CALLS.items()
    }
    branches = "\n".join("{%- elif '" + name + "' in names -%}{{ '" + cue(name) + "' }}" for name in CALLS)
    choice = CHOICE.replace("CALLS", branches).replace("JSON", cue("json"))
    return build_scripted(out, TEXTS | calls, template_of(FAMILIES["json_tools"]) + choice, end="<|im_end|>")


@pytest.fixture(scope="module")
def langchain() -> Path:
    return interpreter("langchain", *LANGCHAIN)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    models = ("--model", str(build(folder / "scripted")), "--model", str(AGENT_FULL))
    with up(folder, "--engine", "mlx", *models) as running:
        yield running.wait_until_ready()


@pytest.mark.parametrize("suite", ["TestOpenAI", "TestOpenAIResponses", "TestAnthropic"])
def test_langchains_standard_tests_hold(langchain: Path, url: str, suite: str, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    file = tmp_path / "test_langchain.py"
    file.write_text((Path(__file__).parent / "langchain_suite.py").read_text())
    command = [langchain, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "120", f"--junitxml={report}"]
    command += ["-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session"]  # its clients outlive tests
    command += ["-o", "asyncio_default_fixture_loop_scope=session", f"{file}::{suite}"]
    command += [f"{file}::{suite.replace('Test', 'TestDemanded')}::test_tool_choice"]
    environment = {**os.environ, "TEST_API_BASE_URL": url, "LANGCHAIN_TRACING_V2": "false"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    cases = list(ElementTree.parse(report).iter("testcase"))
    faults = [(case, fault) for case in cases for tag in ("failure", "error") for fault in case.findall(tag)]
    failed = {str(case.get("name")): f"{fault.get('message')} {fault.text}" for case, fault in faults}
    skipped = sum(case.find("skipped") is not None for case in cases)
    allowed = {name for name, text in failed.items() if any(re.search(w, f"{name} {text}", re.S) for w in ALLOWED)}
    unknown = {name: text[:400] for name, text in failed.items() if name not in allowed}
    passed = len(cases) - skipped - len(failed)
    print(f"{suite}: run {len(cases)}, passed {passed}, skipped {skipped}, allowed {len(allowed)}: {sorted(allowed)}")
    for name, text in unknown.items():
        print(f"  {name}: {text}")
    assert passed > 20
    assert unknown == {}


@pytest.mark.parametrize("profile", ["chat", "modern"])
def test_compatcanarys_probes_hold(url: str, profile: str) -> None:
    binary = install("compatcanary", CANARY) / "node_modules" / ".bin" / "compatcanary"
    command = [binary, "scan", "--base-url", f"{url}/v1", "--model", AGENT_FULL.name, "--profile", profile]
    environment = {**os.environ, "OPENAI_API_KEY": "any"}
    command += ["--format", "json", "--timeout", "120"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    report = json.loads(done.stdout)
    results = report["results"] if "results" in report else report["probes"]
    statuses = {each["id"]: each["status"] for each in results}
    print(f"compatcanary {CANARY} {profile}: {statuses}")
    assert set(statuses.values()) == {"pass"}, done.stdout[-3000:]
    assert len(statuses) >= (5 if profile == "chat" else 7)
