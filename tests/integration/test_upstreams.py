"""The same tool conversation through every backend that runs here: MLX, GGUF, mlx_lm.server, llama.cpp's server and a
second mlx-gateway; and what changes while it all serves. The model is the same everywhere, so the answers are, too."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.command.remotes import scan
from tests.models.gguf_checkpoint import build_gguf
from tests.support.gguf_engine import needs_wheel
from tests.support.models import AGENT_FULL
from tests.support.processes import free_port, running, wait_until
from tests.support.up import Up, run_command, up

pytestmark = [needs_wheel, pytest.mark.slow, pytest.mark.timeout(300)]

TOOL = {
    "name": "Bash",
    "description": "Run a command",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}
BACKENDS = ("agent-full", "agent.gguf", "by-mlx-lm", "by-llama", "by-gateway", "by-messages")


@contextmanager
def llama_server(model: Path, folder: Path) -> Iterator[str]:
    """llama.cpp's server as somebody else would run it, with its chat routes and the model's own template."""
    port = free_port()
    template = ("--chat-template", "")
    words = ("-m", "worker.engines.gguf.wheel_server", "-m", str(model), "--port", str(port), "-c", "8192", "-np", "2")
    with running(*words, *template, "-t", "1", "--slots", log=folder / "llama.log") as process:
        process.wait_for_line("server is listening|listening on")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mlx_lm_server(folder: Path) -> Iterator[str]:
    port = free_port()
    words = ("-m", "mlx_lm", "server", "--model", str(AGENT_FULL), "--port", str(port))
    with running(*words, log=folder / "mlx-lm.log") as process:
        process.wait_for_line("Starting httpd|Uvicorn running|serving", deadline_s=60)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("upstreams")
    gguf = build_gguf(AGENT_FULL, folder / "agent.gguf")
    config = folder / "config"
    config.mkdir()
    with ExitStack() as stack:
        second = stack.enter_context(up(folder / "second", "--engine", "mlx", "--model", str(AGENT_FULL)))
        second.wait_until_ready()
        remotes = [
            {
                "id": "by-mlx-lm",
                "url": stack.enter_context(mlx_lm_server(folder)),
                "model": str(AGENT_FULL),
                "profile": "mlx-lm",
            },
            {"id": "by-llama", "url": stack.enter_context(llama_server(gguf, folder)), "tools": "prompt"},
            {"id": "by-gateway", "url": second.url, "model": "agent-full"},
            {"id": "by-messages", "url": second.url, "model": "anthropic/agent-full", "profile": "anthropic"},
            {"id": "away", "url": "http://127.0.0.1:9", "profile": "openai"},
        ]
        (config / "remotes.json").write_text(json.dumps({"remotes": remotes}))
        (config / "gguf_config.json").write_text('{"binary": "wheel", "slots": 2, "default_args": ["-t", "1"]}')
        arguments = ("--engine", "mlx", "--model", str(AGENT_FULL), "--model", str(gguf), "--config", str(config))
        one = stack.enter_context(up(folder / "first", *arguments))
        one.wait_until_ready()
        for model in BACKENDS:
            wait_until(
                lambda model=model: one.request("POST", "/v1/messages", ask(model, "hi"))[0] == 200,
                model,
                deadline_s=60,
            )
        yield one


def ask(model: str, text: str, *more: Any, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}, *more]
    return {"model": model, "max_tokens": 120, "temperature": 0, "messages": messages, **fields}


# llama.cpp's own chat routes refuse this model's template with tools, so they are written into the prompt, in words
# that the model was not trained on: test_remote.py has what is read then.
@pytest.mark.parametrize("model", [model for model in BACKENDS if model != "by-llama"])
def test_a_conversation_with_tools_and_what_it_has_in_the_cache(served: Up, model: str) -> None:
    status, first = served.request("POST", "/v1/messages", ask(model, "run: `ls -la`", tools=[TOOL]), timeout_s=60)
    assert status == 200, first
    (call,) = [block for block in first["content"] if block["type"] == "tool_use"]
    assert (call["name"], call["input"]["command"], first["stop_reason"]) == ("Bash", "ls -la", "tool_use")
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "total 0"}
    turn = ({"role": "assistant", "content": first["content"]}, {"role": "user", "content": [result]})
    body = ask(model, "run: `ls -la`", *turn, tools=[TOOL])
    status, second = served.request("POST", "/v1/messages", body, timeout_s=60)
    assert status == 200, second
    assert "The tool said" in second["content"][0]["text"]
    if model == "agent.gguf":
        usage, before = second["usage"], first["usage"]
        kept = before["input_tokens"] + before["cache_read_input_tokens"] + before["output_tokens"] - 1
        assert usage["cache_read_input_tokens"] == kept  # what was appended was computed, and nothing else


@pytest.mark.parametrize("model", BACKENDS)
def test_greedy_text_is_the_same_everywhere(served: Up, model: str) -> None:
    status, answer = served.request("POST", "/v1/messages", ask(model, "hello"))
    assert (status, answer["content"][0]["text"]) == (
        200,
        "Hello! I am a tiny test model. Point the configuration at a real model to get real answers.",
    )


def test_a_tier_is_changed_while_a_stream_is_open(served: Up) -> None:
    """By command and by file; the stream goes on where it was."""
    state = ("--state", str(served.state))
    assert run_command("tier", "opus", "agent.gguf", *state).returncode == 0
    connection = served.open("POST", "/v1/messages", ask("claude-opus-4", "hello", stream=True))
    response = connection.getresponse()
    assert "agent-gguf" in str(response.headers["x-mlx-gateway-worker"])
    assert run_command("tier", "opus", "by-gateway", *state).returncode == 0
    assert b"message_stop" in response.read()
    connection.close()

    def answers() -> bool:
        connection = served.open("POST", "/v1/messages", ask("claude-opus-4", "hello"))
        response = connection.getresponse()
        worker = str(response.headers["x-mlx-gateway-worker"])
        assert response.status == 200
        response.read()
        connection.close()
        return "by-gateway" in worker

    wait_until(answers, "the tier's new model")
    assert "by-gateway" in run_command("tier", *state).stdout
    refused = run_command("tier", "opus", "no-such-model", *state)
    assert (refused.returncode, "no-such-model" in refused.stderr) == (4, True)
    assert run_command("tier", "opus", "--clear", *state).returncode == 0


def test_another_model_answers_for_one_whose_server_is_away(served: Up) -> None:
    """At once, whole and streamed, and the answer says so; a mistake of the client's goes to nobody else."""
    routing = served.state.parent.parent / "config" / "claude_routing.json"
    routing.write_text(json.dumps({"tiers": {"opus": "away"}, "fallbacks": {"opus": ["away", "agent.gguf"]}}))

    def answers(**fields: Any) -> tuple[int, str, str]:
        connection = served.open("POST", "/v1/messages", ask("claude-opus-4", "hello", **fields))
        response = connection.getresponse()
        headers, body = response.headers, response.read().decode()
        connection.close()
        told = f"{headers['x-mlx-gateway-worker']} {headers['x-mlx-gateway-warnings']}"
        return response.status, told, body

    wait_until(lambda: answers()[0] == 200, "the fallback is read", deadline_s=30)
    for stream in (False, True):
        status, told, body = answers(stream=stream)
        assert (status, "agent-gguf" in told, "end_turn" in body) == (200, True, True)
    assert answers(max_tokens=-1)[0] == 400
    routing.write_text("{}")


def test_servers_are_recognised_and_ourselves_left_out(served: Up) -> None:
    config = json.loads((served.state.parent.parent / "config" / "remotes.json").read_text())
    urls = [entry["url"] for entry in config["remotes"]]  # the last is away
    found = asyncio.run(scan([*urls, served.url], ourselves=served.url))
    assert {each.url: each.profile for each in found} == {
        urls[0]: "mlx-lm",
        urls[1]: "llama-server",
        urls[2]: "mlx-gateway",
    }


def test_gateways_that_lead_to_each_other_refuse(served: Up) -> None:
    """A hop header counts; here the last hop is taken for the third."""
    address = urlsplit(served.url)
    third = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    body = json.dumps(ask("by-gateway", "hello"))
    third.request("POST", "/v1/messages", body, {"content-type": "application/json", "x-mlx-gateway-hops": "3"})
    response = third.getresponse()
    assert (response.status, b"leads back" in response.read()) == (400, True)
    third.close()


def test_eight_streams_at_once_are_all_answered(served: Up) -> None:
    done: list[int] = []

    def one(model: str) -> None:
        done.append(served.request("POST", "/v1/messages", ask(model, "hello"), timeout_s=60)[0])

    threads = [threading.Thread(target=one, args=(model,)) for model in ("agent.gguf", "by-gateway") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [200] * 8
