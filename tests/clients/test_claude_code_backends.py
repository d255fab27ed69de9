"""The real Claude Code through every backend that runs here: a task with a tool and the conversation continued, on MLX,
GGUF, mlx_lm.server, llama.cpp's server, vllm-mlx, a second mlx-gateway, LiteLLM in front of it. (`-s` shows a table.)

Two models: the demo model, whose architecture llama.cpp has not, and a scripted one, the same weights on MLX and as
GGUF. The scripted one attends to nothing: its chat template says which of four texts comes, by what the last message
holds. So it is shown that tools, results and the conversation reach the model and what is computed of them, and not
that llama.cpp computes attention as MLX does, which `tests/integration/test_upstreams.py` does with other weights.

Not here: servers that do not run on every machine (LM Studio, Ollama, mistral.rs).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.clients.claude_code import ClaudeCode, install_claude_code
from tests.clients.packages import interpreter
from tests.clients.test_recipes_installed import LITELLM, START_S, Proxy
from tests.models.call_templates import template_of
from tests.models.gguf_checkpoint import build_gguf
from tests.models.scripted_checkpoint import build_scripted, cue
from tests.support.appended import check_appended
from tests.support.gguf_engine import needs_wheel
from tests.support.models import DEMO_MODEL
from tests.support.processes import free_port, running, wait_until
from tests.support.recorder import Exchange, Recorder, describe
from tests.support.up import Up, message, up
from worker.formats.families import FAMILIES

pytestmark = [needs_wheel, pytest.mark.recipes, pytest.mark.timeout(600)]

WINDOW_TOKENS = 65_536
FILES = {"one": "seven blue lamps", "two": "nine red lamps"}
BASH = ("--allowedTools", "Bash")
SAID = {
    "demo": ("The tool said: seven blue lamps. All done.", "The tool said: nine red lamps. All done."),
    "scripted": ("There are seven lamps, all blue.", "And nine more, all red."),
}
BACKENDS = ("demo", "scripted", "scripted.gguf", "by-mlx-lm", "by-llama", "by-gateway", "by-messages")
SCRIPTED = ("scripted", "scripted.gguf", "by-llama", "by-vllm-mlx")
KEY = "sk-litellm"
VLLM_MLX = ("vllm-mlx==0.6.0", "mlx[cpu]")  # with what it needs 6 GB on Linux
GGUF = {"binary": "wheel", "slots": 2, "context_tokens": WINDOW_TOKENS, "default_args": ["-t", "1"]}


def call(word: str) -> str:
    return '<tool_call>\n{"name": "Bash", "arguments": {"command": "cat ' + word + '.txt"}}\n</tool_call>'


def scripted(folder: Path) -> Path:
    """A model that calls Bash for the file which the last message asks for, and tells which result it was given."""
    said = dict(zip(FILES.values(), SAID["scripted"], strict=True)) | {f"cat {word}.txt": call(word) for word in FILES}
    names = {held: f"t{n}" for n, held in enumerate(said)}
    words = "{%- set last = messages[-1].content | string -%}"
    for n, (held, name) in enumerate(names.items()):
        words += "{%- " + ("elif" if n else "if") + " '" + held + "' in last -%}{{ '" + cue(name) + "' }}"
    choice = "{%- if add_generation_prompt -%}" + words + "{%- endif -%}{%- endif -%}"
    template = template_of(FAMILIES["json_tools"]) + choice
    texts = {"": "Well."} | {names[held]: text for held, text in said.items()}
    return build_scripted(folder, texts, template, end="<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """`second` is an upstream of `first`, as are LiteLLM and vllm-mlx, which are on these ports once started."""

    first: Up
    second: Up
    scripted: Path
    litellm_port: int
    vllm_port: int


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The requests for answers, what the tool gave, and what each turn ended with."""

    asked: Sequence[Exchange]
    results: Sequence[str]
    said: tuple[str, str]


@contextmanager
def llama_server(model: Path, folder: Path) -> Iterator[str]:
    """llama.cpp's server as somebody else would run it, with its chat routes and the model's own template."""
    port = free_port()
    words = ("-m", "worker.engines.gguf.wheel_server", "-m", str(model), "--port", str(port), "-np", "1")
    more = ("-c", str(WINDOW_TOKENS), "--chat-template", "", "-t", "1", "--slots")
    with running(*words, *more, log=folder / "llama.log") as process:
        process.wait_for_line("server is listening|listening on")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mlx_lm_server(folder: Path) -> Iterator[str]:
    port = free_port()
    words = ("-m", "mlx_lm", "server", "--model", str(DEMO_MODEL), "--port", str(port))
    with running(*words, log=folder / "mlx-lm.log") as process:
        process.wait_for_line("Starting httpd|Uvicorn running|serving", deadline_s=60)
        yield f"http://127.0.0.1:{port}"


def remotes(second: Up, scripted: Path, mlx_lm: str, llama: str, *ports: int) -> list[dict[str, Any]]:
    litellm_port, vllm_port = ports
    vllm = {"url": f"http://127.0.0.1:{vllm_port}", "model": str(scripted), "profile": "vllm-mlx"}
    litellm = {"url": f"http://127.0.0.1:{litellm_port}", "model": "local", "profile": "openai", "key": KEY}
    return [
        {"id": "by-mlx-lm", "url": mlx_lm, "model": str(DEMO_MODEL), "profile": "mlx-lm"},
        {"id": "by-llama", "url": llama, "profile": "llama-server"},
        {"id": "by-gateway", "url": second.url, "model": DEMO_MODEL.name},
        {"id": "by-messages", "url": second.url, "model": f"anthropic/{DEMO_MODEL.name}", "profile": "anthropic"},
        {"id": "by-litellm", **litellm},
        {"id": "by-vllm-mlx", **vllm},
    ]


def wait_until_answered(stack: Up, model: str) -> None:
    wait_until(
        lambda: stack.request("POST", "/v1/messages", message("hi", model=model))[0] == 200,
        f"{model} answers",
        deadline_s=60,
    )


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    folder = tmp_path_factory.mktemp("backends")
    checkpoint = scripted(folder / "scripted")
    gguf = build_gguf(checkpoint, folder / "scripted.gguf")
    config = folder / "config"
    config.mkdir()
    sources = {"demo": DEMO_MODEL, "scripted": checkpoint, "scripted.gguf": gguf}
    with ExitStack() as stack:
        second = stack.enter_context(up(folder / "second", "--engine", "mlx", "--model", str(DEMO_MODEL)))
        second.wait_until_ready()
        servers = stack.enter_context(mlx_lm_server(folder)), stack.enter_context(llama_server(gguf, folder))
        ports = free_port(), free_port()
        files = {
            "models.json": {"models": [{"id": name, "source": str(source)} for name, source in sources.items()]},
            "gguf_config.json": GGUF,
            "remotes.json": {"remotes": remotes(second, checkpoint, *servers, *ports)},
        }
        for name, content in files.items():
            (config / name).write_text(json.dumps(content))
        first = stack.enter_context(up(folder / "first", "--engine", "mlx", "--config", str(config)))
        first.wait_until_ready()
        for name in BACKENDS:
            wait_until_answered(first, name)
        yield Stacks(first=first, second=second, scripted=checkpoint, litellm_port=ports[0], vllm_port=ports[1])


@pytest.fixture
def by_litellm(stacks: Stacks, tmp_path: Path) -> Iterator[str]:
    """LiteLLM's proxy before the second gateway, and the name of the model that is served through it."""
    python = interpreter("litellm", LITELLM)
    parameters = {"model": f"openai/{DEMO_MODEL.name}", "api_base": f"{stacks.second.url}/v1", "api_key": "local"}
    models = [{"model_name": "local", "litellm_params": parameters}]
    config = tmp_path / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    words = (str(python.parent / "litellm"), "--config", str(config), "--host", "127.0.0.1")
    more = ("--port", str(stacks.litellm_port))
    log, environment = tmp_path / "litellm.log", {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with running(*words, *more, log=log, env=environment, python=str(python)):
        wait_until(Proxy(stacks.litellm_port, KEY).is_there, "LiteLLM is there", deadline_s=START_S)
        wait_until_answered(stacks.first, "by-litellm")
        yield "by-litellm"


@pytest.fixture
def by_vllm_mlx(stacks: Stacks, tmp_path: Path) -> Iterator[str]:
    """vllm-mlx with the scripted model, whose kind its own mlx-lm knows, and the name under which that is served."""
    python = interpreter("vllm-mlx", *VLLM_MLX)
    words = (str(python.parent / "vllm-mlx"), "serve", str(stacks.scripted), "--host", "127.0.0.1")
    more = ("--port", str(stacks.vllm_port), "--continuous-batching")
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    environment = {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}  # it keeps prompts in its user's cache
    with running(*words, *more, *tools, log=tmp_path / "vllm-mlx.log", env=environment, python=str(python)) as process:
        process.wait_for_line("Uvicorn running", deadline_s=START_S)
        wait_until_answered(stacks.first, "by-vllm-mlx")
        yield "by-vllm-mlx"


def converse(url: str, model: str, folder: Path) -> Conversation:
    """A task, and its continuation in another process."""
    home, work = folder / "home", folder / "work"
    for each in (home, work):
        each.mkdir()
    for word, text in FILES.items():
        (work / f"{word}.txt").write_text(f"{text}\n")
    with Recorder(url) as recorder:
        claude = ClaudeCode(executable=install_claude_code(), home=home, work=work, url=recorder.url, model=model)
        with recorder.recorded() as exchanges:
            task = claude.run("run: `cat one.txt`", *BASH)
            continued = claude.run("run: `cat two.txt`", "--continue", *BASH)
    return Conversation(
        asked=[exchange for exchange in exchanges if exchange.is_message],
        results=[block["content"] for each in (task, continued) for block in each.blocks("user", "tool_result")],
        said=(task.result["result"], continued.result["result"]),
    )


def check(stacks: Stacks, model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Sequence[Exchange]:
    """The tool ran and its results were told, in both turns; the requests, which are shown."""
    conversation = converse(stacks.first.url, model, folder)
    with capsys.disabled():
        print(f"\n{describe(conversation.asked)}")
    assert conversation.results == list(FILES.values())
    assert conversation.said == SAID["scripted" if model in SCRIPTED else "demo"]
    assert [exchange.called for exchange in conversation.asked] == [["Bash"], [], ["Bash"], []]
    return conversation.asked


@pytest.mark.parametrize("model", [model for model in BACKENDS if model != "by-llama"])
def test_a_task_and_its_continuation_compute_what_they_append(
    stacks: Stacks, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    """On an upstream it is what that server reports."""
    check_appended(check(stacks, model, tmp_path, capsys))


def test_through_llama_cpps_chat_routes_the_last_answer_is_computed_again(
    stacks: Stacks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scripted model says tokens that no text is cut into, and this server, which gets texts, cuts the answer anew.
    It computes one token of what it has, too."""
    asked = check(stacks, "by-llama", tmp_path, capsys)
    assert [later.cached_tokens for later in asked[1:]] == [earlier.prompt_tokens - 1 for earlier in asked[:-1]]


def test_a_task_and_its_continuation_through_litellm(
    stacks: Stacks, by_litellm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_appended(check(stacks, by_litellm, tmp_path, capsys))


def test_a_task_and_its_continuation_through_vllm_mlx(
    stacks: Stacks, by_vllm_mlx: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not tell what it had cached, and nothing is made up."""
    asked = check(stacks, by_vllm_mlx, tmp_path, capsys)
    assert [exchange.cached_tokens for exchange in asked] == [0] * 4
    assert all(later.prompt_tokens > earlier.prompt_tokens > 0 for earlier, later in pairwise(asked))
