"""In a conversation that only grows, each prompt begins the next one, whatever form the client gives it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.canonical import FILLER, canonicalise, has_words
from gateway.dialects.openai_responses.opaque import wrap
from gateway.dialects.registry import DIALECTS
from shared.request import GenerateRequest
from tests.support.examples import examples
from tests.unit.gateway.chat_template import render

words = st.text("ab <>/\n", min_size=1, max_size=8).filter(str.strip)


@dataclass
class Call:
    id: str
    name: str
    input: dict[str, Any]
    result: list[dict[str, Any]]


@dataclass
class Turn:
    """What stands between two answers, then the answer. `said` are ("user" | "system", texts) in order."""

    said: list[tuple[str, list[str]]]
    thinking: str = ""
    text: str = ""
    calls: list[Call] = field(default_factory=list)


@dataclass
class Conversation:
    system: list[str]
    turns: list[Turn]


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    turns = []
    number = 0
    for index in range(draw(st.integers(2, 5))):
        said = draw(
            st.lists(
                st.tuples(st.sampled_from(["user", "system"]), st.lists(words, min_size=1, max_size=3)), max_size=3
            )
        )
        if index == 0:
            said.insert(0, ("user", ["first"]))
        calls = []
        for _ in range(draw(st.integers(0, 3))):
            number += 1
            result = draw(st.lists(st.builds(lambda t: {"type": "text", "text": t}, words), max_size=2))
            if draw(st.booleans()):
                result.append({"type": "tool_reference", "tool_name": draw(st.sampled_from(["Alpha", "Zeta"]))})
            identifier = f"toolu_{draw(st.integers(0, 10**6))}_{number}"
            calls.append(Call(identifier, "Bash", {"command": draw(words), "n": draw(st.integers(0, 3))}, result))
        if index and not said and not turns[-1].calls:
            said.append(("user", ["go on"]))
        turns.append(Turn(said, draw(st.sampled_from(["", "hm"])), draw(st.sampled_from(["", FILLER, "fine"])), calls))
    return Conversation(draw(st.lists(words, max_size=2)), turns)


class AnthropicClient:
    """Writes the first turns of a conversation as Claude Code may: each time a little differently."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def flip(self) -> bool:
        return bool(self.draw(st.booleans()))

    def body(self, conversation: Conversation, turns: int) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        for index, turn in enumerate(conversation.turns[:turns]):
            before = conversation.turns[index - 1] if index else None
            messages += self.gap(before.calls if before else [], turn.said)
            if index < turns - 1:
                answer = self.answer(turn)
                if answer:
                    messages.append({"role": "assistant", "content": answer})
        billing = {"type": "text", "text": f"x-anthropic-billing-header: v={self.draw(st.integers(0, 99))}"}
        system = [billing, *({"type": "text", "text": text} for text in conversation.system)]
        return {"model": "m", "max_tokens": 9, "system": system, "messages": messages, "tools": self.tools()}

    def gap(self, calls: list[Call], said: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
        results = [self.result(call) for call in self.draw(st.permutations(calls))]
        messages = []
        if results:
            messages.append({"role": "user", "content": results})
        for role, texts in said:
            if role == "user" and messages and messages[-1]["role"] == "user" and self.flip():
                content = messages[-1]["content"]
                blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
                messages[-1]["content"] = [*blocks, *self.blocks(texts)]
            else:
                content = texts[0] if len(texts) == 1 and self.flip() else self.blocks(texts)
                messages.append({"role": role, "content": content})
        return messages

    def blocks(self, texts: list[str]) -> list[dict[str, Any]]:
        return [self.marked({"type": "text", "text": text}) for text in texts]

    def marked(self, block: dict[str, Any]) -> dict[str, Any]:
        return block | ({"cache_control": {"type": "ephemeral"}} if self.flip() else {})

    def result(self, call: Call) -> dict[str, Any]:
        content: Any = call.result
        if len(content) == 1 and content[0]["type"] == "text" and self.flip():
            content = content[0]["text"]
        if not content and self.flip():
            content = ""
        return self.marked({"type": "tool_result", "tool_use_id": call.id, "content": content})

    def answer(self, turn: Turn) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if turn.thinking:
            blocks.append({"type": "thinking", "thinking": turn.thinking, "signature": "s" if self.flip() else ""})
        if has_words(turn.text) or (turn.text and self.flip()):
            blocks.append({"type": "text", "text": turn.text})
        blocks += [{"type": "tool_use", "id": c.id, "name": c.name, "input": c.input} for c in turn.calls]
        return blocks

    def tools(self) -> list[dict[str, Any]]:
        schema = {"type": "object"}
        late = [{"name": name, "input_schema": schema, "defer_loading": True} for name in ("Alpha", "Zeta", "Unused")]
        first = {"name": "Bash", "input_schema": schema}
        unused = late.pop()
        tools = [late[0], first, late[1]]
        return [*tools, unused] if self.flip() else tools


class OpenAIClient(AnthropicClient):
    """The same conversation as a chat client would send it."""

    def body(self, conversation: Conversation, turns: int) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        if conversation.system:
            messages.append({"role": "system", "content": self.content(conversation.system)})
        for index, turn in enumerate(conversation.turns[:turns]):
            calls = conversation.turns[index - 1].calls if index else []
            for call in self.draw(st.permutations(calls)):
                texts = [part["text"] for part in call.result if part["type"] == "text"]
                messages.append({"role": "tool", "tool_call_id": call.id, "content": self.content(texts)})
            messages += [
                {"role": "developer" if role == "system" and self.flip() else role, "content": self.content(texts)}
                for role, texts in turn.said
            ]
            if index < turns - 1:
                messages.append(self.assistant(turn))
        return {"model": "m", "messages": messages}

    def content(self, texts: list[str]) -> Any:
        return texts[0] if len(texts) == 1 and self.flip() else self.blocks(texts)

    def assistant(self, turn: Turn) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": turn.text or self.draw(st.sampled_from(["", None]))}
        if turn.thinking:
            message["reasoning_content"] = turn.thinking
        if turn.calls:
            indent = self.draw(st.sampled_from([None, 2]))
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.input, indent=indent)},
                }
                for call in turn.calls
            ]
        return message


class ResponsesClient(OpenAIClient):
    """The same conversation as items; the second call of each turn is one of free text."""

    def body(self, conversation: Conversation, turns: int) -> dict[str, Any]:
        items = [self.message("developer", conversation.system)] if conversation.system else []
        for index, turn in enumerate(conversation.turns[:turns]):
            items += self.outputs(conversation.turns[index - 1].calls if index else [])
            items += [self.message("developer" if role == "system" else role, texts) for role, texts in turn.said]
            if index < turns - 1:
                items += self.said(turn)
        return {"model": "m", "input": items, "tools": [{"type": "custom", "name": "Bash"}]}

    def message(self, role: str, texts: list[str]) -> dict[str, Any]:
        kind = {"type": "message", "id": "msg_1"} if self.flip() else {}
        return {**kind, "role": role, "content": self.content(texts)}

    def outputs(self, calls: list[Call]) -> list[dict[str, Any]]:
        items = []
        for number, call in enumerate(calls):
            kind = "custom_tool_call_output" if number == 1 else "function_call_output"
            texts = [part["text"] for part in call.result if part["type"] == "text"]
            items.append({"type": kind, "call_id": call.id, "output": self.content(texts)})
        return list(self.draw(st.permutations(items)))

    def said(self, turn: Turn) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        if turn.thinking:
            shown = [{"type": "summary_text", "text": turn.thinking}] if self.flip() else []
            items.append({"type": "reasoning", "summary": shown, "encrypted_content": wrap(turn.thinking)})
        if has_words(turn.text) or (turn.text and self.flip()):
            text = {"type": "output_text", "text": turn.text, "annotations": []}
            items.append({"type": "message", "role": "assistant", "content": [text]})
        for number, call in enumerate(turn.calls):
            named = {"call_id": call.id, "name": call.name}
            if number == 1:
                items.append({"type": "custom_tool_call", **named, "input": call.input["command"]})
            else:
                indent = self.draw(st.sampled_from([None, 2]))
                items.append({"type": "function_call", **named, "arguments": json.dumps(call.input, indent=indent)})
        return items


CLIENTS = {"anthropic": AnthropicClient, "openai_chat": OpenAIClient, "openai_responses": ResponsesClient}


def is_silent(turn: Turn) -> bool:
    return not (turn.thinking or has_words(turn.text) or turn.calls)


@pytest.mark.parametrize("name", sorted(CLIENTS))
@examples(25, thorough=100)
@given(conversation=conversations(), data=st.data())
def test_each_prompt_begins_the_next_one(name: str, conversation: Conversation, data: st.DataObject) -> None:
    """A turn whose answer was empty is no turn: what the client says next joins what it said before."""
    client = CLIENTS[name](data.draw)
    prompts: list[str] = []
    for turns in range(1, len(conversation.turns) + 1):
        parsed = DIALECTS[name].parse_request(client.body(conversation, turns), {}, request_id="r")
        prompts.append(render(canonicalise(parsed.request)))

    for turn, (shorter, longer) in zip(conversation.turns, pairwise(prompts), strict=False):
        if not is_silent(turn):
            assert longer.startswith(shorter)


@examples(20, thorough=60)
@given(conversation=conversations(), data=st.data())
def test_the_same_turn_always_renders_to_the_same_prompt(conversation: Conversation, data: st.DataObject) -> None:
    client = AnthropicClient(data.draw)
    turns = len(conversation.turns)

    def prompt() -> str:
        parsed = DIALECTS["anthropic"].parse_request(client.body(conversation, turns), {}, request_id="r")
        return render(canonicalise(parsed.request))

    assert prompt() == prompt()


@examples(20, thorough=60)
@given(conversation=conversations(), data=st.data())
def test_canonical_requests_stay_as_they_are(conversation: Conversation, data: st.DataObject) -> None:
    body = AnthropicClient(data.draw).body(conversation, len(conversation.turns))
    once = canonicalise(DIALECTS["anthropic"].parse_request(body, {}, request_id="r").request)

    assert canonicalise(once) == once


@examples(20, thorough=60)
@given(conversation=conversations(), data=st.data())
def test_canonical_messages_suit_strict_templates(conversation: Conversation, data: st.DataObject) -> None:
    """One system message at most and first; no two neighbours of one role but tool; results only in tool messages."""
    body = AnthropicClient(data.draw).body(conversation, len(conversation.turns))
    request: GenerateRequest = canonicalise(DIALECTS["anthropic"].parse_request(body, {}, request_id="r").request)

    roles = [message.role for message in request.messages]
    assert "system" not in roles[1:]
    assert not any(a == b != "tool" for a, b in pairwise(roles))
    assert all(message.parts for message in request.messages)
    assert all(roles[index - 1] in ("assistant", "tool") for index, role in enumerate(roles) if role == "tool")
