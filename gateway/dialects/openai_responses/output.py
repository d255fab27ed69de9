"""Items of an answer in the vendor's shape, and the events that spell each of them in a stream.

An item is the same whether it was streamed or not: both are made here from what the model said. A stream opens an item,
adds to it and closes it, and opens the next one only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from gateway.dialects.openai.logprobs import render_logprobs
from gateway.dialects.openai_responses.opaque import wrap
from gateway.dialects.openai_responses.tools import INPUT, Origin
from shared.events import TokenLogprob
from shared.exact import loads

Status = Literal["in_progress", "completed", "incomplete"]
Payload = tuple[str, dict[str, Any]]  # an event's type, and its fields but for its number and the item's place


class Item(Protocol):
    """One item of an answer, as far as it was said. Its events are made in the order: open, deltas, close."""

    def open(self) -> Iterable[Payload]: ...

    def close(self, status: Status) -> Iterable[Payload]:
        """The last event but `response.output_item.done`, which holds `render(status)`."""

    def render(self, status: Status) -> dict[str, Any]: ...


@dataclass(slots=True, kw_only=True)
class MessageItem:
    """What the answer says in words."""

    id: str
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()

    def open(self) -> Iterable[Payload]:
        yield "response.output_item.added", {"item": self._render([], "in_progress")}
        yield "response.content_part.added", {"item_id": self.id, "content_index": 0, "part": _output_text("", ())}

    def add(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterable[Payload]:
        self.text += text
        self.logprobs += tuple(logprobs)
        said = {"delta": text, "logprobs": render_logprobs(logprobs)}
        yield "response.output_text.delta", {"item_id": self.id, "content_index": 0, **said}

    def close(self, status: Status) -> Iterable[Payload]:
        at = {"item_id": self.id, "content_index": 0}
        yield "response.output_text.done", {**at, "text": self.text, "logprobs": render_logprobs(self.logprobs)}
        yield "response.content_part.done", {**at, "part": _output_text(self.text, self.logprobs)}

    def render(self, status: Status) -> dict[str, Any]:
        return self._render([_output_text(self.text, self.logprobs)], status)

    def _render(self, content: list[dict[str, Any]], status: Status) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


def _output_text(text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": render_logprobs(logprobs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningStyle:
    """Where a client looks for reasoning: in a summary, if it asked for one, else in the content. `wraps`: it sends
    back what it was given, wrapped."""

    shows_summary: bool = False
    wraps: bool = False


@dataclass(slots=True, kw_only=True)
class ReasoningItem:
    """What the model thinks before it answers."""

    id: str
    style: ReasoningStyle
    text: str = ""

    def open(self) -> Iterable[Payload]:
        empty = {"id": self.id, "type": "reasoning", "status": "in_progress", "summary": []}
        yield "response.output_item.added", {"item": empty | ({"encrypted_content": ""} if self.style.wraps else {})}
        kind = "reasoning_summary_part" if self.style.shows_summary else "content_part"
        yield f"response.{kind}.added", {**self._at(), "part": self._part("")}

    def add(self, text: str) -> Iterable[Payload]:
        self.text += text
        yield f"response.{self._word()}.delta", {**self._at(), "delta": text}

    def close(self, status: Status) -> Iterable[Payload]:
        yield f"response.{self._word()}.done", {**self._at(), "text": self.text}
        kind = "reasoning_summary_part" if self.style.shows_summary else "content_part"
        yield f"response.{kind}.done", {**self._at(), "part": self._part(self.text)}

    def render(self, status: Status) -> dict[str, Any]:
        said = [self._part(self.text)]
        shown = {"summary": said} if self.style.shows_summary else {"summary": [], "content": said}
        item = {"id": self.id, "type": "reasoning", "status": status, **shown}
        return item | ({"encrypted_content": wrap(self.text)} if self.style.wraps else {})

    def _word(self) -> str:
        return "reasoning_summary_text" if self.style.shows_summary else "reasoning_text"

    def _at(self) -> dict[str, Any]:
        return {"item_id": self.id, ("summary_index" if self.style.shows_summary else "content_index"): 0}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "summary_text" if self.style.shows_summary else "reasoning_text", "text": text}


@dataclass(slots=True, kw_only=True)
class CallItem:
    """A call of a function, of a tool that takes free text, or of the client's search for tools. Only a function's
    arguments can be passed on while they are generated: the others are another thing than what the model writes."""

    id: str
    call_id: str
    origin: Origin
    arguments: str = ""

    def open(self) -> Iterable[Payload]:
        yield "response.output_item.added", {"item": self._render("in_progress", _NOTHING[self.origin.kind])}

    def add(self, arguments: str) -> Iterable[Payload]:
        self.arguments += arguments
        if self.origin.kind == "function" and arguments:
            yield "response.function_call_arguments.delta", {"item_id": self.id, "delta": arguments}

    def close(self, status: Status) -> Iterable[Payload]:
        at = {"item_id": self.id}
        match self.origin.kind:
            case "function":
                if not self.arguments.strip():
                    yield "response.function_call_arguments.delta", {**at, "delta": _NO_ARGUMENTS}
                done = {**at, "name": self.origin.name, **self._said()}
                yield "response.function_call_arguments.done", done
            case "custom":
                text = _input_of(self.arguments)
                yield "response.custom_tool_call_input.delta", {**at, "delta": text}
                yield "response.custom_tool_call_input.done", {**at, "input": text}

    def render(self, status: Status) -> dict[str, Any]:
        return self._render(status, self._said())

    @property
    def is_whole(self) -> bool:
        return _object_of(self.arguments) is not None

    def _said(self) -> dict[str, Any]:
        match self.origin.kind:
            case "function":
                return {"arguments": self.arguments if self.arguments.strip() else _NO_ARGUMENTS}
            case "custom":
                return {"input": _input_of(self.arguments)}
            case "tool_search":
                return {"execution": "client", "arguments": _object_of(self.arguments) or {}}

    def _render(self, status: Status, said: Mapping[str, Any]) -> dict[str, Any]:
        kind = f"{self.origin.kind}_call" if self.origin.kind != "custom" else "custom_tool_call"
        named = {} if self.origin.kind == "tool_search" else {"name": self.origin.name}
        within = {"namespace": self.origin.namespace} if self.origin.namespace else {}
        return {"id": self.id, "type": kind, "status": status, "call_id": self.call_id, **named, **within, **said}


_NOTHING: Final[Mapping[str, Mapping[str, Any]]] = {
    "function": {"arguments": ""},
    "custom": {"input": ""},
    "tool_search": {"execution": "client", "arguments": {}},
}


_NO_ARGUMENTS: Final = "{}"


def _object_of(arguments: str) -> dict[str, Any] | None:
    """None for what is no JSON object."""
    try:
        value = loads(arguments if arguments.strip() else _NO_ARGUMENTS)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _input_of(arguments: str) -> str:
    """The free text; what the model wrote instead of it, where it did not keep to the form."""
    text = (_object_of(arguments) or {}).get(INPUT)
    return text if isinstance(text, str) else arguments


@dataclass(slots=True, kw_only=True)
class CompactionItem:
    """A summary in place of a conversation. The client keeps it unread."""

    id: str
    text: str = ""

    def open(self) -> Iterable[Payload]:
        yield "response.output_item.added", {"item": self._render("")}

    def close(self, status: Status) -> Iterable[Payload]:
        return ()

    def render(self, status: Status) -> dict[str, Any]:
        return self._render(wrap(self.text))

    def _render(self, content: str) -> dict[str, Any]:
        return {"id": self.id, "type": "compaction", "encrypted_content": content}
