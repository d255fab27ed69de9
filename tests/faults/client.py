"""Clients that stream an answer and note when every part of it came."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.support.served import EventSource

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
TIMEOUT_S = 60.0
_CHAT_KINDS = {"content": "text", "reasoning_content": "thinking"}


@dataclass
class Answer:
    """What a client has read. `parts` are kinds (text, thinking, tool_use and the tool's name) and what each says;
    `error` is the type of the error that ended it, `broken` why the connection did."""

    parts: list[tuple[str, str]] = field(default_factory=list)
    stop: str = ""
    output_tokens: int = 0
    error: str = ""
    broken: str = ""

    @property
    def is_whole(self) -> bool:
        return bool(self.stop) and not self.error and not self.broken

    @property
    def text(self) -> str:
        """Everything said, in order."""
        return "".join(f"<{kind}>{text}" for kind, text in self.parts)

    def _add(self, kind: str, text: str, *, is_new: bool) -> None:
        if is_new or not self.parts or self.parts[-1][0] != kind:
            self.parts.append((kind, text))
        else:
            self.parts[-1] = (kind, self.parts[-1][1] + text)


def read_message(events: list[tuple[float, str]]) -> Answer:
    """A stream of the Messages API. Fails on an event that is none."""
    answer = Answer()
    for _, data in events:
        event = orjson.loads(data)
        match event["type"]:
            case "content_block_start":
                block = event["content_block"]
                name = f" {block['name']}" if "name" in block else ""
                answer._add(block["type"] + name, "", is_new=True)
            case "content_block_delta":
                kind = answer.parts[-1][0]
                texts = [text for key, text in event["delta"].items() if key in ("text", "thinking", "partial_json")]
                answer._add(kind, "".join(texts), is_new=False)
            case "message_delta":
                answer.stop = event["delta"].get("stop_reason") or ""
                answer.output_tokens = event["usage"]["output_tokens"]
            case "error":
                answer.error = event["error"]["type"]
    return answer


def read_chat(events: list[tuple[float, str]]) -> Answer:
    """A stream of Chat Completions."""
    answer = Answer()
    for _, data in events:
        if data == "[DONE]":
            break
        event = orjson.loads(data)
        if "error" in event:
            answer.error = event["error"].get("code") or event["error"]["type"]
            continue
        if event.get("usage"):
            answer.output_tokens = event["usage"]["completion_tokens"]
        for choice in event["choices"]:
            _read_choice(answer, choice)
    return answer


def _read_choice(answer: Answer, choice: Mapping[str, Any]) -> None:
    delta = choice["delta"]
    for key, kind in _CHAT_KINDS.items():
        if delta.get(key):
            answer._add(kind, delta[key], is_new=False)
    for call in delta.get("tool_calls") or ():
        name = call["function"].get("name")
        kind = f"tool_use {name}" if name else answer.parts[-1][0]
        answer._add(kind, call["function"].get("arguments") or "", is_new=bool(name))
    answer.stop = choice.get("finish_reason") or answer.stop


_READERS = {MESSAGES: read_message, CHAT: read_chat}
_SAYS = {MESSAGES: "content_block_delta", CHAT: '"delta":{"'}


class Asked(threading.Thread):
    """A request under way. `events` are moments (monotonic) and what was read then."""

    def __init__(self, port: int, path: str, body: Any, headers: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        self.port, self.path, self.body, self.headers = port, path, body, headers
        self.events: list[tuple[float, str]] = []
        self.request_id = self.worker = self.broken = self.refusal = ""
        self.status = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self.start()

    def run(self) -> None:
        try:
            sent = {"content-type": "application/json", **self.headers}
            self._connection.request("POST", self.path, orjson.dumps(self.body), sent)
            response = self._connection.getresponse()
            self.request_id = response.getheader("request-id", "")
            self.worker = response.getheader("x-mlx-gateway-worker", "").partition(";")[0]
            self.status = response.status
            if response.status != 200:
                self.refusal = response.read().decode()
                return
            with EventSource(self._connection, response) as source:
                for name, data in source:
                    if name != "comment":
                        self.events.append((time.monotonic(), data))
            if not self._has_ended():
                self.broken = "the stream ended before its end"
        except (OSError, http.client.HTTPException, AttributeError, ValueError) as error:
            self.broken = f"{type(error).__name__}: {error}"
        finally:
            self._connection.close()

    def _has_ended(self) -> bool:
        last = self.events[-1][1] if self.events else ""
        return last == "[DONE]" or '"message_stop"' in last or '"error"' in last

    def deltas_s(self) -> list[float]:
        """When something of the answer came."""
        mark = _SAYS[self.path]
        return [moment for moment, data in self.events if mark in data and '"role"' not in data[:200]]

    def answer(self) -> Answer:
        answer = _READERS[self.path](list(self.events))
        answer.broken = self.broken
        if self.refusal:
            answer.error = _error_type(self.refusal)
        return answer

    def leave(self) -> None:
        self._connection.close()


def _error_type(body: str) -> str:
    """Of an error's body; raises when it is none of the dialect's."""
    error = orjson.loads(body)["error"]
    return str(error.get("type"))
