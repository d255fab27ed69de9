"""A prefill of 320 seconds is waited for by clients that count what they parse, and asked for once.

Codex gives up 300 s after the last event that it parses, Qwen Code after 240 s, whatever comments come between. Here
the seconds are shorter: the gateway's signs of life, the echo engine and the client's own limit are `SPEED` times as
fast, or the client's clock is (libfaketime).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.command.agents.base import ServedModels, Setting
from gateway.command.agents.registry import AGENTS
from shared.config import Settings
from tests.clients.claude_code import isolated
from tests.clients.codex import Codex, install_codex
from tests.clients.npm import install
from tests.clients.test_claude_code_patience import LIBRARIES
from tests.support.recorder import Exchange, Recorder
from tests.support.served import Served, served

PREFILL_S = 320.0
CODEX_S, QWEN_S = 300.0, 240.0
NEVER_S = 1e6
SETTINGS = Settings()
QUESTION = "Are you still there?"
QWEN, NODE = "0.24.4", "22.12.0"


@contextmanager
def slow(redis_url: str, folder: Path, *, speed: float, keepalive_s: float, words: int) -> Iterator[Recorder]:
    """A model "slow" that takes `PREFILL_S` of the client's seconds for a prompt of so many tokens."""
    with served(redis_url, folder, keepalive_s=keepalive_s / speed) as gateway:
        with gateway.worker("slow", prefill_tokens_per_s=words / PREFILL_S * speed):
            with Recorder(f"http://127.0.0.1:{gateway.port}") as recorder:
                yield recorder


def prompt_of(redis_url: str, folder: Path, ask: Callable[[Served, Recorder], object]) -> int:
    """The tokens that the client's first prompt has."""
    with served(redis_url, folder) as gateway, gateway.worker("slow"):
        with Recorder(f"http://127.0.0.1:{gateway.port}") as recorder:
            with recorder.recorded() as exchanges:
                ask(gateway, recorder)
    return max(filter(None, (_prompt_tokens(exchange) for exchange in exchanges)))


def _prompt_tokens(exchange: Exchange) -> int:
    found = [data.get("usage") or (data.get("response") or {}).get("usage") for _, data in exchange.events if data]
    usage = next((each for each in reversed(found) if each), {})
    return int(usage.get("input_tokens") or usage.get("prompt_tokens") or 0)


def answers_asked(exchanges: list[Exchange]) -> list[Exchange]:
    return [each for each in exchanges if each.method == "POST" and each.path.partition("?")[0] in PATHS]


PATHS = ("/v1/responses", "/v1/chat/completions")


def by_chat(client: openai.OpenAI) -> str:
    stream = client.chat.completions.create(
        model="slow", messages=[{"role": "user", "content": QUESTION}], stream=True, temperature=0
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def by_responses(client: openai.OpenAI) -> str:
    stream = client.responses.create(model="slow", input=QUESTION, stream=True, temperature=0)
    return "".join(event.delta for event in stream if event.type == "response.output_text.delta")


@pytest.mark.parametrize(("ask", "limit_s"), [(by_chat, QWEN_S), (by_responses, CODEX_S)])
def test_the_package_reads_events_all_the_while_and_asks_once(
    redis_url: str, tmp_path: Path, ask: Callable[[openai.OpenAI], str], limit_s: float
) -> None:
    """With the limits of the clients that are stricter than itself, and its own two retries."""
    speed, words = 200.0, len(QUESTION.split())
    keepalive_s = SETTINGS.keepalive_s
    with slow(redis_url, tmp_path, speed=speed, keepalive_s=keepalive_s, words=words) as recorder:
        with openai.OpenAI(base_url=f"{recorder.url}/v1", api_key="x", timeout=limit_s / speed) as client:
            with recorder.recorded() as exchanges:
                assert ask(client) == QUESTION
    (asked,) = answers_asked(exchanges)
    is_chat = ask is by_chat
    waiting = [data for _, data in asked.events if (_is_empty(data) if is_chat else data["type"].endswith("progress"))]
    assert len(waiting) >= PREFILL_S / keepalive_s / 2, "events that are parsed, and no comments"


def _is_empty(chunk: Any) -> bool:
    return bool(chunk and chunk["choices"]) and chunk["choices"][0]["delta"].get("content") == ""


def test_without_signs_of_life_the_package_gives_up(redis_url: str, tmp_path: Path) -> None:
    """So the test above could fail."""
    words = len(QUESTION.split())
    with slow(redis_url, tmp_path, speed=200.0, keepalive_s=NEVER_S, words=words) as recorder:
        with openai.OpenAI(base_url=f"{recorder.url}/v1", api_key="x", timeout=QWEN_S / 200.0) as client:
            with recorder.recorded(), pytest.raises(openai.APITimeoutError):
                by_responses(client)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_codex_waits_and_asks_once(redis_url: str, tmp_path: Path) -> None:
    """With its default of 300 s: told here, for its launcher would make it more patient, and as many times shorter."""
    speed = 60.0
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    flags = ("-c", f"model_providers.mlx-gateway.stream_idle_timeout_ms={int(CODEX_S / speed * 1000)}")
    codex = Codex(executable=install_codex(), home=home, work=work, url="", model="slow", flags=flags)
    (tmp_path / "first").mkdir()
    words = prompt_of(redis_url, tmp_path / "first", lambda _, recorder: replace(codex, url=recorder.url).run(QUESTION))
    with slow(redis_url, tmp_path, speed=speed, keepalive_s=SETTINGS.keepalive_s, words=words) as recorder:
        with recorder.recorded() as exchanges:
            run = replace(codex, url=recorder.url).run(QUESTION)
    assert QUESTION in run.words
    (asked,) = answers_asked(exchanges)
    assert (asked.ended_s - asked.started_s) * speed > CODEX_S
    print(f"codex: {len(answers_asked(exchanges))} request, {len(asked.events)} events")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not LIBRARIES, reason="without libfaketime (apt install faketime) it takes 320 s")
def test_qwen_code_waits_and_asks_once(redis_url: str, tmp_path: Path) -> None:
    speed = 60.0
    (tmp_path / "first").mkdir()
    words = prompt_of(redis_url, tmp_path / "first", lambda _, recorder: qwen(tmp_path, recorder.url))
    clock = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME": f"+0 x{speed:.0f}"}
    with slow(redis_url, tmp_path, speed=speed, keepalive_s=SETTINGS.keepalive_s, words=words) as recorder:
        with recorder.recorded() as exchanges:
            said = qwen(tmp_path, recorder.url, **clock)
    assert QUESTION in said
    main = [each for each in answers_asked(exchanges) if _prompt_tokens(each) == words]
    assert len(main) == 1
    assert (main[0].ended_s - main[0].started_s) * speed > QWEN_S
    print(f"qwen: {len(main)} request, {len(main[0].events)} events")


def qwen(folder: Path, url: str, **clock: str) -> str:
    """What the real Qwen Code says, headless, by its own interpreter: npm's node 20 installs an older one."""
    home, work = folder / "qwen-home", folder / "qwen-work"
    home.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    node = install("node", NODE) / "node_modules" / "node" / "bin" / "node"
    package = install("@qwen-code/qwen-code", QWEN) / "node_modules" / "@qwen-code" / "qwen-code"
    program = package / json.loads((package / "package.json").read_text())["bin"]["qwen"]
    models = ServedModels(main="slow", context_tokens=65_536)
    start = AGENTS["qwen"].prepare(Setting(url=url, key="", models=models, folder=home / "agents"))
    command = [node, program, *start.arguments, "-p", QUESTION]
    environment = {**start.environment_in(isolated(home)), **clock}
    done = subprocess.run(
        command,
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout
