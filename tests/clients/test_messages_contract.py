"""What Claude Code and the SDKs rely on in the Messages API, line by line, on a real stack."""

from __future__ import annotations

import base64
import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anthropic
import pytest

from tests.support.appended import END_TOKENS, check_appended
from tests.support.processes import wait_until
from tests.support.stack import Stack
from tests.support.up import Up, up
from tests.unit.worker.test_documents import pdf

BASH: dict[str, Any] = {
    "name": "Bash",
    "description": "Run a command",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}
LATER = {"name": "CronList", "description": "List jobs", "input_schema": {"type": "object"}, "defer_loading": True}
PLACEHOLDER = {"name": "Placeholder", "description": "Never call", "input_schema": {}, "defer_loading": True}
SYSTEM = "You are a helpful assistant in a test of what is computed. " * 60  # long enough to be kept in the cache
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(message: anthropic.types.Message) -> dict[str, Any]:
    """An answer as clients send it back."""
    return {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]}


def result(message: anthropic.types.Message, content: Any) -> dict[str, Any]:
    call = message.content[-1]
    assert call.type == "tool_use"
    return {"type": "tool_result", "tool_use_id": call.id, "content": content}


def kinds(message: anthropic.types.Message) -> list[str]:
    return [block.type for block in message.content]


def computed(usage: anthropic.types.Usage) -> int:
    return usage.input_tokens + (usage.cache_creation_input_tokens or 0)


def total(usage: anthropic.types.Usage) -> int:
    return computed(usage) + (usage.cache_read_input_tokens or 0)


@dataclass(frozen=True)
class _Turn:
    usage: anthropic.types.Usage

    @property
    def prompt_tokens(self) -> int:
        return total(self.usage)

    @property
    def computed_tokens(self) -> int:
        return computed(self.usage)

    @property
    def output_tokens(self) -> int:
        return self.usage.output_tokens


class Conversation:
    """Turns of one conversation, and whether each computed only what was appended to the one before."""

    def __init__(self, client: anthropic.Anthropic, **asked: Any) -> None:
        self.client = client
        self.asked = {"max_tokens": 200, "system": SYSTEM, "tools": [BASH]} | asked
        self.messages: list[dict[str, Any]] = []
        self.answers: list[anthropic.types.Message] = []

    def say(self, *content: Any, **changes: Any) -> anthropic.types.Message:
        """`content` are messages; strings are the user's."""
        self.messages += [user(each) if isinstance(each, str) else each for each in content]
        answer = self.client.messages.create(messages=self.messages, **self.asked | changes)
        self.messages.append(said(answer))
        self.answers.append(answer)
        return answer

    def check_appended(self) -> None:
        check_appended([_Turn(answer.usage) for answer in self.answers])


# -- endpoints and headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/api/hello"), ("HEAD", "/"), ("GET", "/")])
def test_the_clients_first_probe_is_answered_at_once(stack: Stack, method: str, path: str) -> None:
    address = urlsplit(stack.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
    connection.request(method, path)
    response = connection.getresponse()
    assert response.status == 200
    assert bool(response.read()) == (method == "GET")
    connection.close()


def test_any_version_any_beta_and_any_query_are_served(claude: anthropic.Anthropic, stack: Stack) -> None:
    response = claude.messages.with_raw_response.create(
        model=stack.model,
        max_tokens=10,
        messages=[user("hi")],
        extra_headers={"anthropic-version": "2031-01-01", "anthropic-beta": "something-2031-01-01,other"},
        extra_query={"beta": "true", "more": "1"},
    )
    assert response.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0, "top_p": 0.9, "top_k": 4},
        {"service_tier": "auto", "context_management": {"edits": [{"type": "clear_thinking_20251015"}]}},
        {"fallbacks": [], "container": None, "metadata": {"user_id": "{}"}, "a_field_of_tomorrow": {"a": [1]}},
    ],
    ids=["sampling of older versions", "Claude Code's", "unknown"],
)
def test_fields_that_mean_nothing_here_are_no_error(
    claude: anthropic.Anthropic, stack: Stack, fields: dict[str, Any]
) -> None:
    message = claude.messages.create(model=stack.model, max_tokens=10, messages=[user("hi")], extra_body=fields)
    assert kinds(message) == ["text"]


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_deferred_tools_are_no_part_of_the_prompt_until_they_are_referenced(
    claude: anthropic.Anthropic, stack: Stack
) -> None:
    conversation = Conversation(claude, model=stack.demo)
    called = conversation.say("run: `cat notes.txt`")
    reference = result(called, [{"type": "tool_reference", "tool_name": "CronList"}])
    conversation.asked["tools"] = [BASH, LATER, PLACEHOLDER]
    conversation.say(user([reference]))
    conversation.say("run: `cat notes.txt`")
    conversation.check_appended()

    plain = claude.messages.count_tokens(model=stack.demo, tools=[BASH], messages=[user("hi")])
    deferred = claude.messages.count_tokens(model=stack.demo, tools=[BASH, LATER, PLACEHOLDER], messages=[user("hi")])
    assert plain == deferred


def test_thinking_in_history_is_the_prompt_that_it_was(claude: anthropic.Anthropic, stack: Stack) -> None:
    """Across tool results and across the user's turns."""
    conversation = Conversation(
        claude, model=stack.demo, max_tokens=2000, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    called = conversation.say("run: `cat notes.txt`")
    conversation.say(user([result(called, "seven blue lamps")]))
    again = conversation.say("run: `cat notes.txt`")
    assert kinds(called) == kinds(again) == ["thinking", "tool_use"]
    conversation.check_appended()


@pytest.mark.parametrize("signature", ["", "any text", None])
def test_signatures_come_back_in_any_form(claude: anthropic.Anthropic, stack: Stack, signature: str | None) -> None:
    thinking = {"type": "thinking", "thinking": "I should say hello."}
    if signature is not None:
        thinking["signature"] = signature
    history = [user("hi"), {"role": "assistant", "content": [thinking, {"type": "text", "text": "Hello!"}]}, user("hi")]
    counted = claude.messages.count_tokens(model=stack.model, messages=history)
    thinking["signature"] = "0" * 32
    assert counted == claude.messages.count_tokens(model=stack.model, messages=history)


def test_forks_and_side_requests_leave_the_conversation_in_the_cache(claude: anthropic.Anthropic, stack: Stack) -> None:
    """A title beside the first turn, a suggestion after it, a subagent: then the conversation goes on."""
    conversation = Conversation(claude, model=stack.demo)
    title = {"type": "json_schema", "schema": {"type": "object", "properties": {"title": {"type": "string"}}}}
    conversation.say("run: `cat notes.txt`")
    claude.messages.create(
        model=stack.demo,
        max_tokens=30,
        system="Make a title. " * 100,
        messages=[user("run: `cat notes.txt`")],
        extra_body={"tools": [], "output_config": {"format": title}},
    )
    conversation.say(user([result(conversation.answers[-1], "seven blue lamps")]))
    suggestion = claude.messages.create(
        messages=[*conversation.messages, user("[SUGGESTION MODE: say what comes next] " + "words " * 100)],
        **conversation.asked,
    )
    main = conversation.answers[-1].usage
    left = total(main) + main.output_tokens - (suggestion.usage.cache_read_input_tokens or 0)
    assert 0 <= left <= END_TOKENS
    claude.messages.create(
        model=stack.demo,
        max_tokens=30,
        system="You search. " * 100,
        messages=[user("look")],
        extra_headers={"x-claude-code-session-id": "s", "x-claude-code-agent-id": "a"},
    )
    conversation.say("run: `cat notes.txt`")
    conversation.check_appended()


@pytest.mark.slow
def test_a_client_that_leaves_in_the_prefill_finds_what_was_computed(claude: anthropic.Anthropic, stack: Stack) -> None:
    asked: dict[str, Any] = {"model": stack.demo, "max_tokens": 5, "messages": [user("a b c d " * 6000)]}
    whole = claude.messages.count_tokens(model=stack.demo, messages=asked["messages"]).input_tokens
    with claude.messages.create(**asked, stream=True):
        wait_until(lambda: 0 < waiting_tokens(stack) < whole - 2000, "a part is computed")
    again = claude.messages.create(**asked).usage
    assert 0 < again.cache_read_input_tokens < whole


def waiting_tokens(stack: Stack) -> float:
    """What the demo model's worker has yet to prefill, as it last said."""
    _, text = stack.up.request("GET", "/metrics/hosts")
    found = re.search(rf'^wk_waiting_tokens{{.*model="{stack.demo}".*}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


# -- tools and forms --------------------------------------------------------------------------------------------------

CONSTRUCTS: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "command": {"type": "string", "minLength": 1, "maxLength": 12, "default": "ls"},
        "note": {"allOf": [{"type": "string", "pattern": "^[\\s\\S]{0,300}$"}]},
        "url": {"type": "string", "format": "uri"},
        "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 9007199254740991},
        "mode": {"type": "string", "enum": ["content", "files"]},
        "items": {"type": "array", "maxItems": 2, "items": {"type": "string"}},
    },
    "required": ["command", "mode"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "Do"}], ids=str)
@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
def test_every_construct_of_claude_codes_schemas_is_accepted(
    claude: anthropic.Anthropic, stack: Stack, choice: Any, strict: bool
) -> None:
    tool = {"name": "Do", "description": "Do it", "input_schema": CONSTRUCTS, "strict": strict}
    message = claude.messages.create(
        model=stack.model, max_tokens=300, tools=[tool], tool_choice=choice, messages=[user("do: `this`")]
    )
    if message.stop_reason == "tool_use" and (strict or choice["type"] != "auto"):
        call = message.content[-1]
        assert set(call.input) >= {"command", "mode"}
        assert call.input["mode"] in ("content", "files")
        assert 1 <= len(call.input["command"]) <= 12


def test_what_cannot_be_enforced_is_said_in_a_header_and_served(claude: anthropic.Anthropic, stack: Stack) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "string", "pattern": "^(?=a)b"}}, "required": ["n"]}
    response = claude.messages.with_raw_response.create(
        model=stack.model,
        max_tokens=30,
        messages=[user("hi")],
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert "`pattern` is not enforced" in response.headers["x-mlx-gateway-warnings"]


def test_a_title_request_is_answered_with_its_json_and_no_thinking(claude: anthropic.Anthropic, stack: Stack) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string", "maxLength": 20}},
        "required": ["title"],
        "additionalProperties": False,
    }
    message = claude.messages.create(
        model=stack.model,
        max_tokens=200,
        system="Write a short title for the session.",
        thinking={"type": "disabled"},
        messages=[user("run: `cat notes.txt`")],
        extra_body={"tools": [], "output_config": {"format": {"type": "json_schema", "schema": schema}}},
    )
    assert kinds(message) == ["text"]
    assert set(json.loads(message.content[0].text)) == {"title"}


def test_a_web_search_request_is_answered_with_its_failure(claude: anthropic.Anthropic, stack: Stack) -> None:
    """In the vendor's words for a search that is down, so that no client takes the model's words for results."""
    response = claude.messages.with_raw_response.create(
        model=stack.model,
        max_tokens=50,
        tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        tool_choice={"type": "auto"},
        messages=[user("Perform a web search for the query: lamps")],
    )
    assert response.headers["x-mlx-gateway-warnings"] == "not available here: web_search"
    message = response.parse()
    assert kinds(message) == ["server_tool_use", "web_search_tool_result", "text"]
    assert message.content[0].input == {"query": "lamps"}
    assert message.content[1].content.error_code == "unavailable"
    assert message.stop_reason == "end_turn"


def test_checks_that_only_the_vendor_does_are_said_not_to_be_done(claude: anthropic.Anthropic, stack: Stack) -> None:
    """Claude Code asks for them in auto mode."""
    asked: dict[str, Any] = {"model": stack.model, "max_tokens": 200, "tools": [BASH], "messages": [user("run: `ls`")]}
    wanted = {"safeguards": [{"type": "dangerous_tool_use", "classifier_context": {}}]}
    said = [{"type": "dangerous_tool_use", "status": {"type": "unsupported"}}]
    whole = claude.messages.create(**asked, extra_body=wanted)
    events = list(claude.messages.create(**asked, extra_body=wanted, stream=True))
    assert whole.model_dump()["safeguard_results"] == said
    assert [e.delta.model_dump()["safeguard_results"] for e in events if e.type == "message_delta"] == [said]


@pytest.mark.parametrize(
    ("thinking", "thinks"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "between_tools"}, True),
        ({"type": "adaptive", "display": "omitted"}, False),
        ({"type": "disabled"}, False),
        (None, False),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else str(value),
)
def test_thinking_is_the_templates_switch(
    claude: anthropic.Anthropic, stack: Stack, thinking: Any, thinks: bool
) -> None:
    """Adaptive leaves it to the template, which does not think by itself."""
    asked: dict[str, Any] = {"model": stack.model, "max_tokens": 2000, "messages": [user("hi")]}
    message = claude.messages.create(**asked, **({} if thinking is None else {"thinking": thinking}))
    assert kinds(message) == (["thinking", "text"] if thinks else ["text"])


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_every_effort_is_accepted(claude: anthropic.Anthropic, stack: Stack, effort: Any) -> None:
    message = claude.messages.create(
        model=stack.model, max_tokens=10, messages=[user("hi")], output_config={"effort": effort}
    )
    assert kinds(message) == ["text"]


# -- media ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["message", "tool result"])
def test_an_image_is_refused_in_the_words_on_which_the_client_strips_it(
    claude: anthropic.Anthropic, stack: Stack, place: str
) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
    history = [user("run"), {"role": "assistant", "content": [call]}]
    within = [*history, user([{"type": "tool_result", "tool_use_id": "toolu_1", "content": [IMAGE]}])]
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(
            model=stack.model,
            max_tokens=5,
            tools=[BASH],
            messages=[user([IMAGE])] if place == "message" else within,
        )
    assert caught.value.body["error"]["message"].startswith("Could not process image")


def document(data: bytes) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(data).decode()}
    return {"type": "document", "source": source}


def test_a_pdf_that_holds_text_is_read(claude: anthropic.Anthropic, stack: Stack) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
    content = [document(pdf("seven blue lamps"))]
    messages = [
        user("run: `ls`"),
        {"role": "assistant", "content": [call]},
        user([{"type": "tool_result", "tool_use_id": "toolu_1", "content": content}]),
    ]
    counted = claude.messages.count_tokens(model=stack.model, tools=[BASH], messages=messages).input_tokens
    content[0] = {"type": "text", "text": "[page 1]\nseven blue lamps"}
    assert counted == claude.messages.count_tokens(model=stack.model, tools=[BASH], messages=messages).input_tokens


@pytest.mark.parametrize("data", [pdf(""), b"no pdf at all"], ids=["without text", "broken"])
def test_a_pdf_that_holds_no_text_is_refused_in_the_words_on_which_the_client_strips_it(
    claude: anthropic.Anthropic, stack: Stack, data: bytes
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="does not support PDF input"):
        claude.messages.create(model=stack.model, max_tokens=5, messages=[user([document(data)])])


# -- limits -----------------------------------------------------------------------------------------------------------

WINDOW = 4000
AGENTS = 24


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Up]:
    """The demo model with a small window and a cache of a few conversations, in memory only."""
    sizes = {"MAX_CONTEXT_TOKENS": WINDOW, "CACHE_BYTES": 2_000_000, "SSD_CACHE_BYTES": -1}
    limits = {f"MLX_GATEWAY_{name}": str(size) for name, size in sizes.items()}
    with up(tmp_path_factory.mktemp("tight"), "--engine", "mlx", env=limits) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def tight_claude(tight: Up) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=tight.url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


def test_max_tokens_over_the_window_is_cut_and_the_end_says_so(tight_claude: anthropic.Anthropic) -> None:
    filler = "word " * 1000
    used = tight_claude.messages.count_tokens(model="demo", messages=[user(filler)]).input_tokens
    filler += "word " * ((WINDOW - used - 8) // 2)
    while (used := tight_claude.messages.count_tokens(model="demo", messages=[user(filler)]).input_tokens) < WINDOW - 9:
        filler += "x "
    message = tight_claude.messages.create(model="demo", max_tokens=32_000, messages=[user(filler)])
    assert message.stop_reason == "model_context_window_exceeded"
    assert message.usage.output_tokens == WINDOW - used


def test_a_prompt_over_the_window_is_refused_with_both_numbers(tight_claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        tight_claude.messages.create(model="demo", max_tokens=10, messages=[user("word " * 5000)])
    message = caught.value.body["error"]["message"]
    assert message.startswith("prompt is too long: ")
    assert message.endswith(f" tokens > {WINDOW} maximum")


@pytest.mark.slow
def test_side_requests_never_push_the_main_conversation_out_of_the_cache(
    tight_claude: anthropic.Anthropic,
) -> None:
    """More subagents than the cache can hold, each with a prompt of its own."""
    conversation = Conversation(tight_claude, model="demo", extra_headers={"x-claude-code-session-id": "s"})
    conversation.say("run: `cat notes.txt`")

    def ask(agent: int) -> int:
        """Cached tokens of an agent's prompt."""
        usage = tight_claude.messages.create(
            model="demo",
            max_tokens=1,
            system=f"You are agent {agent}. " * 150,
            messages=[user("look around")],
            extra_headers={"x-claude-code-session-id": "s", "x-claude-code-agent-id": f"a{agent}"},
        ).usage
        return usage.cache_read_input_tokens

    assert [ask(agent) for agent in range(AGENTS)] == [0] * AGENTS
    conversation.say(user([result(conversation.answers[0], "seven blue lamps")]))
    conversation.check_appended()
    assert 0 in [ask(agent) for agent in range(AGENTS)], "the cache was too small for all of them"
