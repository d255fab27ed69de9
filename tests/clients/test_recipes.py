"""The recipes of `docs/clients.md` for programs that are configured by hand: the values that stand there, and what the
programs send with them, written anew from their sources (Open WebUI 0.6, Continue 1.x, Cline 3.x). The programs
themselves are not run here: two are editors' extensions, and Open WebUI is gigabytes. LiteLLM and LlamaIndex are run,
by `test_recipes_installed`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from shared.redis_server import RedisServer
from tests.support.processes import REPOSITORY
from tests.support.served import Served, served

PAGE = (REPOSITORY / "docs" / "clients.md").read_text()
KEY = "sk-recipes"
MODEL = "current-model"
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
READ_FILE = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
CACHED = {"cache_control": {"type": "ephemeral"}}
CALL = 'call read_file {"path": "a.txt"}'


def section(name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def block(name: str, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", section(name), re.MULTILINE | re.DOTALL)
    assert found is not None, (name, language)
    return found[1]


def path_of(url: str) -> str:
    """What stands behind the address that `up` prints."""
    assert url.startswith("http://127.0.0.1:8080"), url
    return url.removeprefix("http://127.0.0.1:8080").rstrip("/")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The echo engine behind a key, so that each program's way to send it is tested, too."""
    with RedisServer() as server, served(server.url, tmp_path_factory.mktemp("recipes"), api_key=KEY) as gateway:
        gateway.headers["authorization"] = f"Bearer {KEY}"
        with gateway.worker():
            yield gateway


def chunks_of(gateway: Served, path: str, body: Any, headers: dict[str, str] | None = None) -> list[Any]:
    with gateway.stream(path, body, headers) as source:
        assert source.status == 200, list(source)
        said = [data for name, data in source if name != "comment"]
    assert said[-1] == "[DONE]"
    return [json.loads(data) for data in said[:-1]]


def text_of(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def user(text: str | list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": "user", "content": text}


# -- Open WebUI: backend/open_webui/routers/openai.py and tasks.py


def test_open_webui_lists_models_chats_and_asks_for_titles_and_tags(gateway: Served) -> None:
    variables = dict(re.findall(r"^export (OPENAI_\w+)=(\S+)", block("Open WebUI", "sh"), re.MULTILINE))
    assert variables["OPENAI_API_KEY"] == "local"
    base = path_of(variables["OPENAI_API_BASE_URL"])
    listed = gateway.get(f"{base}/models").json
    (model,) = [entry["id"] for entry in listed["data"] if entry["id"] == "echo"]
    forwarded = {"X-OpenWebUI-User-Name": "A%20B", "X-OpenWebUI-User-Id": "u", "X-OpenWebUI-Chat-Id": "c"}
    history = [{"role": "system", "content": "Be brief."}, user("hello"), {"role": "assistant", "content": "hello"}]
    asked = {"stream": True, "model": model, "messages": [*history, user("one two")]}
    chunks = chunks_of(
        gateway, f"{base}/chat/completions", {**asked, "stream_options": {"include_usage": True}}, forwarded
    )
    assert text_of(chunks) == "one two"
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert text_of(chunks_of(gateway, f"{base}/chat/completions", asked)) == "one two"
    for words in ("### Task:\nGenerate a concise, 3-5 word title", "### Task:\nGenerate 1-3 broad tags"):
        task = {"model": model, "messages": [user(words)], "stream": False, "max_completion_tokens": 1000}
        reply = gateway.post(f"{base}/chat/completions", task, forwarded)
        assert reply.status == 200, reply.body
        assert reply.json["choices"][0]["message"]["content"].startswith("### Task:")


def test_open_webui_calls_tools_and_sends_pictures(gateway: Served) -> None:
    tool = {"type": "function", "function": {"name": "read_file", "description": "", "parameters": READ_FILE}}
    body = {"model": MODEL, "stream": True, "tools": [tool], "messages": [user(CALL)]}
    chunks = chunks_of(gateway, "/v1/chat/completions", body)
    calls = [call for chunk in chunks for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "read_file"
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    parts = [{"type": "text", "text": "what is this"}, picture]
    seen = gateway.post("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": parts}]})
    assert (seen.status, seen.json["choices"][0]["message"]["content"]) == (200, "what is this")


# -- Continue: packages/openai-adapters/src/apis/OpenAI.ts and Anthropic.ts


def continue_models() -> dict[str, Any]:
    config = yaml.safe_load(block("Continue", "yaml"))
    assert config["schema"] == "v1"
    return {model["provider"]: model for model in config["models"]}


def test_continue_streams_and_calls_tools_as_an_openai_client(gateway: Served) -> None:
    model = continue_models()["openai"]
    assert (model["model"], model["apiKey"], model["capabilities"]) == (MODEL, "local", ["tool_use"])
    base = path_of(model["apiBase"])
    headers = {"x-api-key": KEY, "accept": "application/json"}  # it sends its key twice
    tools = [{"type": "function", "function": {"name": "read_file", "description": "Reads", "parameters": READ_FILE}}]
    body = {
        "model": model["model"],
        "max_tokens": model["defaultCompletionOptions"]["maxTokens"],
        "messages": [{"role": "system", "content": "You are in agent mode."}, user(CALL)],
        "tools": tools,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chunks = chunks_of(gateway, f"{base}/chat/completions", body, headers)
    (call,) = [
        c["delta"]["tool_calls"][0] for chunk in chunks for c in chunk["choices"] if c["delta"].get("tool_calls")
    ][:1]
    said = "".join(
        part["function"].get("arguments") or ""
        for chunk in chunks
        for choice in chunk["choices"]
        for part in choice["delta"].get("tool_calls", ())
    )
    assert json.loads(said) == {"path": "a.txt"}
    answered = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{**call, "function": {"name": "read_file", "arguments": said}}],
    }
    result = {"role": "tool", "tool_call_id": call["id"], "content": "its words"}
    body["messages"] = [*body["messages"], answered, result]
    assert text_of(chunks_of(gateway, f"{base}/chat/completions", body, headers)) == "its words"


def test_continue_marks_its_cache_as_an_anthropic_client(gateway: Served) -> None:
    model = continue_models()["anthropic"]
    assert model["cacheBehavior"] == {"cacheSystemMessage": True, "cacheConversation": True}
    assert model["apiBase"].endswith("/v1/")  # it joins its paths to a base with the slash
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "prompt-caching-2024-07-31"}
    body = {
        "model": model["model"],
        "max_tokens": 8192,
        "system": [{"type": "text", "text": "You are in agent mode.", **CACHED}],
        "tools": [{"name": "read_file", "description": "Reads", "input_schema": READ_FILE, **CACHED}],
        "messages": [user([{"type": "text", "text": "one two", **CACHED}])],
        "stream": True,
    }
    assert anthropic_text(gateway, f"{path_of(model['apiBase'])}/messages", body, headers) == "one two"


def anthropic_text(gateway: Served, path: str, body: Any, headers: dict[str, str]) -> str:
    with gateway.stream(path, body, {"authorization": "", **headers}) as source:
        events = [(name, json.loads(data)) for name, data in source if name != "comment"]
        assert source.status == 200, events
    assert events[-1][0] == "message_stop"
    return "".join(data["delta"].get("text", "") for name, data in events if name == "content_block_delta")


# -- Cline: src/core/api/providers/openai.ts and anthropic.ts


def cline_fields() -> dict[str, str]:
    return dict(re.findall(r"^\| ([A-Z][\w ]+) \| (.*?) \|$", section("Cline"), re.MULTILINE))


def test_cline_streams_and_calls_tools_as_an_openai_client(gateway: Served) -> None:
    fields = cline_fields()
    assert fields["Model ID"] == f"`{MODEL}`"
    base = path_of(fields["Base URL"].strip("`"))
    tool = {"name": "read_file", "description": "Reads", "strict": False, "parameters": READ_FILE}
    body = {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": int(fields["Max Output Tokens"].strip("`")),
        "messages": [
            {"role": "system", "content": "You are Cline."},
            user([{"type": "text", "text": "<task>"}, {"type": "text", "text": CALL}]),
        ],
        "tools": [{"type": "function", "function": tool}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chunks = chunks_of(gateway, f"{base}/chat/completions", body)
    names = [
        part["function"].get("name")
        for c in chunks
        for ch in c["choices"]
        for part in ch["delta"].get("tool_calls", ())
    ]
    assert names[0] == "read_file"
    assert chunks[-1]["usage"]["prompt_tokens"] > 0


def test_cline_marks_its_cache_and_demands_a_call_as_an_anthropic_client(gateway: Served) -> None:
    assert path_of(re.findall(r"custom base URL\* `(\S+)`", section("Cline"))[0]) == ""
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    cached = {"type": "text", "text": "one two", **CACHED}
    body = {
        "model": "claude-sonnet-4-5-20250929",
        "max_tokens": 8192,
        "temperature": 0,
        "system": [{"text": "You are Cline.", "type": "text", **CACHED}],
        "messages": [user([cached]), {"role": "assistant", "content": "one two"}, user([cached])],
        "stream": True,
    }
    assert anthropic_text(gateway, "/v1/messages", body, headers) == "one two"
    tools = [{"name": "read_file", "description": "Reads", "input_schema": READ_FILE}]
    demanded = {**body, "tools": tools, "tool_choice": {"type": "any"}, "stream": False}
    reply = gateway.post("/v1/messages", demanded, {"authorization": "", **headers})
    assert reply.status == 200, reply.body
    assert reply.json["stop_reason"] == "tool_use"


# -- LiteLLM and LlamaIndex: their configurations are those that the installed ones are run with


def test_litellms_recipe_is_the_file_of_the_repository() -> None:
    assert block("LiteLLM", "yaml") == (REPOSITORY / "deploy" / "litellm.yaml").read_text()
