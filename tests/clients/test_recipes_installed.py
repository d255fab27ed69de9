"""LiteLLM's proxy and LlamaIndex themselves, installed into environments of their own and run with what
`docs/clients.md` says. `make server` starts the proxy beside the stack; the model is the echo engine. Run by
`make test-recipes`: what is installed takes minutes and 750 MB."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.packages import interpreter
from tests.clients.test_recipes import block
from tests.support.processes import REPOSITORY, free_port, is_running, wait_until
from tests.support.up import NO_SETTINGS, up

pytestmark = [pytest.mark.recipes, pytest.mark.timeout(900)]

MAKEFILE = (REPOSITORY / "Makefile").read_text()
LITELLM = re.findall(r"^LITELLM := (\S+)$", MAKEFILE, re.MULTILINE)[0]
LLAMA_INDEX = ("llama-index-llms-openai-like==0.8.1",)
START_S = 300.0  # it reads for long before it listens
PATH = {"type": "object", "properties": {"path": {"type": "string"}}}
CALL = 'call read_file {"path": "a.txt"}'


class Proxy:
    """LiteLLM, as its clients see it."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self._key = key

    def ask(self, path: str, body: Any = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._key}"}
        try:
            connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def is_there(self) -> bool:
        try:
            return self.ask("/health/liveliness")[0] == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """`make server`, with what it installs installed before, so that a machine without a way out skips this."""
    interpreter("litellm", LITELLM)
    folder = tmp_path_factory.mktemp("server")
    ports = free_port(), free_port()
    settings = (f"PORT={ports[0]}", f"LITELLM_PORT={ports[1]}", f"STATE={folder}", "ENGINE=echo")
    environment = {k: v for k, v in {**os.environ, **NO_SETTINGS}.items() if v is not None}
    with (folder / "make.log").open("wb") as log:
        command = ["make", "--old-file=.venv/.installed-run", "server", *settings]
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            key = REPOSITORY / "build" / "litellm" / "key"
            wait_until(lambda: key.exists() and Proxy(ports[1], "").is_there(), "LiteLLM is there", deadline_s=START_S)
            wait_until(
                lambda: b"ready on" in (folder / "make.log").read_bytes(), "the gateway is ready", deadline_s=START_S
            )
            yield Proxy(ports[1], key.read_text().strip())
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
            process.wait(60)
    assert not Proxy(ports[1], "").is_there()
    assert not is_running(process.pid)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("model", ["local", "claude-local"])
def test_litellm_is_answered_over_every_route_of_its_own(proxy: Proxy, model: str) -> None:
    """As an OpenAI and as an Anthropic provider: each of its routes for each."""
    for stream in (False, True):
        chat = {"model": model, "max_tokens": 100, "messages": [user("one two")], "stream": stream}
        status, said = proxy.ask("/v1/chat/completions", chat)
        assert (status, "two" in said) == (200, True), said
        status, said = proxy.ask("/v1/messages", chat)
        assert (status, "two" in said) == (200, True), said
        assert ("message_stop" in said) == stream
    status, said = proxy.ask("/v1/responses", {"model": model, "input": "one two"})
    assert (status, "two" in said) == (200, True), said


@pytest.mark.parametrize("model", ["local", "claude-local"])
def test_litellm_passes_calls_and_their_results(proxy: Proxy, model: str) -> None:
    function = {"name": "read_file", "description": "Reads", "parameters": PATH}
    chat = {"model": model, "max_tokens": 100, "tools": [{"type": "function", "function": function}]}
    status, said = proxy.ask("/v1/chat/completions", {**chat, "messages": [user(CALL)]})
    assert status == 200, said
    message = json.loads(said)["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"path": "a.txt"}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "its words"}
    status, said = proxy.ask("/v1/chat/completions", {**chat, "messages": [user(CALL), message, result]})
    assert (status, "its words" in said) == (200, True), said
    tool = {"name": "read_file", "description": "Reads", "input_schema": PATH}
    status, said = proxy.ask(
        "/v1/messages", {"model": model, "max_tokens": 100, "tools": [tool], "messages": [user(CALL)]}
    )
    assert status == 200, said
    (used,) = [part for part in json.loads(said)["content"] if part["type"] == "tool_use"]
    assert used["input"] == {"path": "a.txt"}


MORE = """
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

print("stream:", "".join(part.delta for part in llm.stream_chat([ChatMessage(role="user", content="three four")])))

def read_file(path: str) -> str:
    "Reads a file"
    return path

said = llm.chat_with_tools([FunctionTool.from_defaults(read_file)], 'call read_file {"path": "a.txt"}')
print("calls:", [(c.tool_name, c.tool_kwargs) for c in llm.get_tool_calls_from_response(said)])
"""


def test_llama_index_completes_streams_and_calls(tmp_path: Path) -> None:
    python = interpreter("llama-index", *LLAMA_INDEX)
    with up(tmp_path) as running:
        url = running.wait_until_ready()
        program = block("LlamaIndex", "python").replace("http://127.0.0.1:8080", url) + MORE
        environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([python, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "Hello",
        "stream: three four",
        "calls: [('read_file', {'path': 'a.txt'})]",
    ]
