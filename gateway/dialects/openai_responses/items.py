"""Input items -> messages, one per item; `canonicalise` puts together what belongs together.

What has no meaning for a model here (calls of tools that the vendor's servers ran, items of a newer release) is left
out and named: a conversation that a client carries along must not end over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.canonical import CallLedger, arguments_text, normal_arguments
from gateway.dialects import fields
from gateway.dialects.openai.media import parse_file, parse_image
from gateway.dialects.openai.schema import REMINDER_TAGS
from gateway.dialects.openai_responses.compaction import summary_text
from gateway.dialects.openai_responses.opaque import unwrap
from gateway.dialects.openai_responses.schema import FOREIGN_PARTS, ROLES, TEXT_KINDS
from gateway.dialects.openai_responses.tools import TOOL_SEARCH, Toolbox, text_arguments
from gateway.dialects.reminders import wrap_reminders
from shared.errors import UnsupportedContentError
from shared.messages import (
    Message,
    Part,
    ReasoningPart,
    ResultPart,
    TextPart,
    ToolCallPart,
    ToolReferencePart,
    ToolResultPart,
)

_Item = Mapping[str, Any]


@dataclass(slots=True)
class ItemReader:
    """Reads the items of one request in order. `box` takes the tools that they bring; `left_out` names what has no
    meaning here; `wants_summary` says that the last item asks for a summary instead of an answer."""

    box: Toolbox
    left_out: dict[str, None] = field(default_factory=dict)
    wants_summary: bool = False
    _ledger: CallLedger = field(default_factory=CallLedger)
    _has_begun: bool = False  # more than system messages came

    def read(self, value: Any) -> tuple[Message, ...]:
        """`input`: a text, or a list of items."""
        if isinstance(value, str):
            return (Message(role="user", parts=(TextPart(text=fields.name(value)),)),)
        messages = fields.each(fields.sequence(value), self._read_item)
        return wrap_reminders([message for message in messages if message is not None], REMINDER_TAGS)

    def _read_item(self, value: Any) -> Message | None:
        if isinstance(value, str):
            return Message(role="user", parts=(TextPart(text=value),))
        item = fields.mapping(value)
        kind = _kind_of(item)
        self.wants_summary = kind == "compaction_trigger"
        read = _READERS.get(kind)
        if read is None:
            self.left_out[kind] = None
            return None
        message = read(self, item)
        self._has_begun = self._has_begun or (message is not None and message.role != "system")
        return message

    def _message(self, item: _Item) -> Message:
        wire_role = fields.string(item.get("role"), "role")
        role = ROLES.get(wire_role)
        if role is None:
            fields.refuse(f"Input should be one of {', '.join(map(repr, ROLES))}", "role")
        with fields.within("content"):
            return Message(role=role, parts=self._content(item.get("content")))

    def _content(self, value: Any) -> tuple[ResultPart, ...]:
        """A text, or a list of parts."""
        if value is None or isinstance(value, str):
            return (TextPart(text=value),) if value else ()
        if not isinstance(value, list):
            fields.refuse("Input should be a valid string or list")
        return tuple(part for part in fields.each(value, self._part) if part is not None)

    def _part(self, value: Any) -> ResultPart | None:
        if isinstance(value, str):
            return TextPart(text=value)
        part = fields.mapping(value)
        kind = fields.string(part.get("type"), "type")
        if kind in TEXT_KINDS:
            return TextPart(text=fields.string(part.get("text"), "text"))
        match kind:
            case "refusal":
                return TextPart(text=fields.string(part.get("refusal"), "refusal"))
            case "input_image" | "image_url":
                with fields.within("image_url"):
                    return parse_image(part.get("image_url"))
            case "input_file" | "file":
                nested = part.get("file")
                return parse_file(nested if isinstance(nested, dict) else part)
        if kind in FOREIGN_PARTS:
            problem = f"content of type {kind!r} is of another API; use input_text, input_image or input_file"
            fields.refuse(problem, "type", kind=UnsupportedContentError)
        self.left_out[kind] = None
        return None

    def _reasoning(self, item: _Item) -> Message | None:
        """As it was generated where we wrapped it, else as the client shows it."""
        text = unwrap(item.get("encrypted_content"))
        for key in ("content", "summary"):
            if text is None and item.get(key):
                with fields.within(key):
                    parts = self._content(item[key])
                text = "\n\n".join(part.text for part in parts if isinstance(part, TextPart))
        return _said(ReasoningPart(text=text)) if text else None

    def _function_call(self, item: _Item) -> Message:
        given = item.get("arguments")
        text = arguments_text(given) if isinstance(given, dict) else fields.optional_string(given, "arguments")
        return self._call(item, normal_arguments(text or "{}"))

    def _custom_call(self, item: _Item) -> Message:
        return self._call(item, text_arguments(fields.optional_string(item.get("input"), "input")))

    def _search_call(self, item: _Item) -> Message | None:
        """The client's; one of the vendor's servers has found nothing that the model could not see."""
        if not item.get("call_id"):
            return None
        given = item.get("arguments")
        text = given if isinstance(given, str) else arguments_text(given if given is not None else {})
        return self._call({**item, "name": TOOL_SEARCH}, normal_arguments(text))

    def _call(self, item: _Item, arguments: str) -> Message:
        call_id = fields.name(item.get("call_id"), "call_id")
        namespace = fields.optional_string(item.get("namespace"), "namespace")
        name = self.box.name_for_model(fields.name(item.get("name"), "name"), namespace)
        if not self._ledger.call(call_id, name):
            fields.refuse(f"call ids must be unique, {call_id!r} is used twice", "call_id")
        return _said(ToolCallPart(id=call_id, name=name, arguments=arguments))

    def _output(self, item: _Item) -> Message:
        value = item.get("output")
        with fields.within("output"):
            parts: tuple[ResultPart, ...]
            if value is None or isinstance(value, (str, list)):
                parts = self._content(value)
            else:
                parts = (TextPart(text=fields.json_text(value)),)
        return self._result(item, parts)

    def _search_output(self, item: _Item) -> Message | None:
        """The tools that were found are shown where the result stands: what stands before stays as it was."""
        if not item.get("call_id"):
            return None
        with fields.within("tools"):
            names = self.box.add(item.get("tools"), late=True)
        parts = tuple(ToolReferencePart(tool_name=name) for name in names)
        return self._result(item, parts or (TextPart(text="No tools were found."),))

    def _result(self, item: _Item, parts: tuple[ResultPart, ...]) -> Message:
        """Of a tool, or a user's, where no call waits for this result."""
        result = ToolResultPart(call_id=fields.name(item.get("call_id"), "call_id"), parts=parts)
        told = self._ledger.result(result, fields.optional_string(item.get("name"), "name"))
        return Message(role="tool" if told == (result,) else "user", parts=told)

    def _tools(self, item: _Item) -> Message | None:
        """At the head they are the request's own; later ones are shown where they join."""
        with fields.within("tools"):
            names = self.box.add(item.get("tools"), late=self._has_begun)
        if not self._has_begun or not names:
            return None
        return Message(role="system", parts=tuple(ToolReferencePart(tool_name=name) for name in names))

    def _compaction(self, item: _Item) -> Message | None:
        text = unwrap(item.get("encrypted_content"))
        if text is None:
            self.left_out["compaction of another server"] = None
            return None
        return Message(role="user", parts=(TextPart(text=summary_text(text)),))

    def _trigger(self, item: _Item) -> None:
        return None


def _said(part: Part) -> Message:
    return Message(role="assistant", parts=(part,))


def _kind_of(item: _Item) -> str:
    """By `type`, else by what an item of each type alone holds."""
    kind = fields.optional_string(item.get("type"), "type")
    if kind:
        return kind
    return next((kind for key, kind in _TELLING if item.get(key) is not None), "item without type")


_TELLING: Final = (
    ("role", "message"),
    ("output", "function_call_output"),
    ("arguments", "function_call"),
    ("input", "custom_tool_call"),
    ("summary", "reasoning"),
    ("encrypted_content", "reasoning"),
    ("id", "item_reference"),
)

_READERS: Final[Mapping[str, Callable[[ItemReader, _Item], Message | None]]] = {
    "message": ItemReader._message,
    "reasoning": ItemReader._reasoning,
    "function_call": ItemReader._function_call,
    "function_call_output": ItemReader._output,
    "custom_tool_call": ItemReader._custom_call,
    "custom_tool_call_output": ItemReader._output,
    "tool_search_call": ItemReader._search_call,
    "tool_search_output": ItemReader._search_output,
    "additional_tools": ItemReader._tools,
    "compaction": ItemReader._compaction,
    "compaction_summary": ItemReader._compaction,
    "compaction_trigger": ItemReader._trigger,
}
