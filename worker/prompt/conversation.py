"""Canonical messages as what chat templates read, in units: the pieces a conversation grows by."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shared import exact
from shared.errors import UnsupportedContentError
from shared.messages import (
    DocumentPart,
    ImagePart,
    Message,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolReferencePart,
    ToolResultPart,
)
from shared.request import ToolDefinition
from worker.prompt.documents import document_text
from worker.prompt.encode import Shield
from worker.prompt.harmony import with_preamble
from worker.prompt.image_pieces import Content, ImageAlbum, ImageDict, joined, text_of
from worker.prompt.past import Past
from worker.prompt.template import ToolDict
from worker.prompt.tool_schemas import complete
from worker.prompt.traits import Traits
from worker.prompt.unit import Unit

# In the place of a result's images, where the template has none for them there.
_IMAGE_FOLLOWS = "(image: see below)"

# Where a template shows tools only beside a system message, and there is none.
_DEFAULT_SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """`system` is empty or one system message; `instructions` is the system text where the template has no place for
    such a message and the first unit begins with it. `past` is what windows ask of its units."""

    system: tuple[dict[str, Any], ...]
    units: tuple[Unit, ...]
    instructions: str = ""
    past: Past = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "past", Past(self.units))

    @property
    def system_text(self) -> str:
        return str(self.system[0]["content"]) if self.system else self.instructions

    def beginning(self, text: str) -> list[dict[str, Any]]:
        """The head, and a first user message that says `text`."""
        return [*self.system, {"role": "user", "content": instructed(self.instructions, text)}]


def build_tools(tools: Iterable[ToolDefinition], shield: Shield) -> list[ToolDict]:
    """Tools of the prompt's head, in the given order; deferred ones appear where they are referenced."""
    return [ToolDict({"type": "function", "function": _function(tool, shield)}) for tool in tools if not tool.deferred]


def _function(tool: ToolDefinition, shield: Shield) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": shield(tool.description),
        "parameters": shielded(complete(tool.parameters), shield),
    }


def shielded(value: Any, shield: Shield) -> Any:
    """JSON data with every string in it shielded."""
    if isinstance(value, str):
        return shield(value)
    if isinstance(value, dict):
        return {key: shielded(item, shield) for key, item in value.items()}
    if isinstance(value, list):
        return [shielded(item, shield) for item in value]
    return value


def _definition_text(tool: ToolDefinition | None, name: str) -> str:
    """A referenced tool as Claude Code's ToolSearch announces it to the model."""
    if tool is None:
        return f"(there is no tool named {name})"
    line = exact.dumps(
        {"description": tool.description, "name": tool.name, "parameters": tool.parameters}, ensure_ascii=False
    )
    return f"<functions>\n<function>{line}</function>\n</functions>"


@dataclass(slots=True)
class Converter:
    """Builds the units of one conversation. Every text passes `shield`; images are those of `album`."""

    traits: Traits
    shield: Shield
    tools: Mapping[str, ToolDefinition]
    album: ImageAlbum = field(default_factory=partial(ImageAlbum, (), None))
    _calls: dict[str, tuple[int, ToolCallPart]] = field(default_factory=dict)

    def convert(self, messages: Sequence[Message], tools_text: str = "", *, has_tools: bool = False) -> Conversation:
        """`tools_text` describes the tools where the template cannot. Raises `UnsupportedContentError`."""
        head = messages[0] if messages and messages[0].role == "system" else None
        system = "\n\n".join(text for text in (self._text(head.parts) if head else "", tools_text) if text)
        if not system and has_tools and self.traits.tools_need_system:
            system = _DEFAULT_SYSTEM
        start = 0 if head is None else 1
        units: list[Unit] = []
        while start < len(messages):
            end = self._unit_end(messages, start)
            units.append(self._unit(messages[start:end], end))
            start = end
        if not units or units[0].kind == "assistant":
            # Only instructions, or an answer to nothing: templates expect a user to speak first.
            units.insert(0, _opening(system if not units else "…"))
            system = system if len(units) > 1 else ""
        if self.traits.calls and not self.traits.several_calls:
            units = _one_call_each(units)
        if not system:
            return Conversation(system=(), units=tuple(units))
        if self.traits.system:
            return Conversation(system=({"role": "system", "content": system},), units=tuple(units))
        units[0] = _with_instructions(units[0], system)
        return Conversation(system=(), units=tuple(units), instructions=system)

    def _unit_end(self, messages: Sequence[Message], start: int) -> int:
        end = start + 1
        if messages[start].role == "tool":
            while end < len(messages) and messages[end].role == "tool":
                end += 1
            if not self.traits.user_after_tools and end < len(messages) and messages[end].role == "user":
                end += 1
        return end

    def _unit(self, messages: Sequence[Message], end: int) -> Unit:
        first = messages[0]
        key: Any = tuple(messages)
        references = tuple(self._reference_key(part) for message in messages for part in _references(message))
        if references:
            key = (key, references)
        if first.role == "tool":
            return Unit("tool", key, end, partial(self._results, messages), messages)
        if first.role == "assistant":
            for part in first.parts:
                if isinstance(part, ToolCallPart):
                    self._calls[part.id] = (len(self._calls), part)
            return Unit("assistant", key, end, lambda: [self._answer(first)], messages)
        return Unit("user", key, end, lambda: [{"role": "user", "content": self._content(first.parts)}], messages)

    def _reference_key(self, part: ToolReferencePart) -> str:
        return _definition_text(self.tools.get(part.tool_name), part.tool_name)

    def _text(self, parts: Sequence[Any]) -> str:
        return self.shield("\n".join(self._part_text(part) for part in parts))

    def _content(self, parts: Sequence[Any]) -> Content:
        """Text, or where there are images a list of them and the texts between."""
        contents: list[Content] = []
        for is_image, run in itertools.groupby(parts, lambda part: isinstance(part, ImagePart)):
            if is_image:
                contents.extend([self._image(part)] for part in run)
            else:
                contents.append(self._text(tuple(run)))
        return joined(*contents)

    def _image(self, part: ImagePart) -> ImageDict:
        return ImageDict(self.traits.image_form, self.album.image(part))

    def _part_text(self, part: Any) -> str:
        match part:
            case TextPart(text=text):
                return text
            case ToolReferencePart():
                return self._reference_key(part)
            case DocumentPart(media_type=media_type, data=data, title=title):
                return document_text(media_type, data, title)
            case _:
                raise UnsupportedContentError(f"{type(part).__name__} has no place in a text prompt")

    def _answer(self, message: Message) -> dict[str, Any]:
        text = "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
        out: dict[str, Any] = {"role": "assistant", "content": self.shield(text)}
        reasoning = "\n".join(part.text for part in message.parts if isinstance(part, ReasoningPart))
        if reasoning.strip():
            out["reasoning_content"] = out["thinking"] = self.shield(reasoning)
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        if calls and not self.traits.calls:
            out["content"] = "\n".join([*filter(None, [out["content"]]), *map(self._call_text, calls)])
        elif calls:
            out["tool_calls"] = [self._call(call) for call in calls]
            return with_preamble(out) if self.traits.commentary else out
        return out

    def _call(self, part: ToolCallPart) -> dict[str, Any]:
        arguments = self._arguments(part)
        if isinstance(arguments, str) and not self.traits.text_arguments:
            # No JSON object, and the template wants one: shown under a name that says so.
            arguments = {"unparsed_arguments": arguments}
        elif self.traits.text_arguments:
            arguments = arguments if isinstance(arguments, str) else exact.dumps(arguments, ensure_ascii=False)
        return {
            "type": "function",
            "id": self._shown_id(part.id),
            "function": {"name": part.name, "arguments": arguments},
        }

    def _arguments(self, part: ToolCallPart) -> Any:
        """An object, or the text as it is when it is none (or nested beyond reason)."""
        try:
            return shielded(parse_arguments(part.arguments), self.shield)
        except RecursionError:
            return self.shield(part.arguments)

    def _call_text(self, part: ToolCallPart) -> str:
        body = exact.dumps({"name": part.name, "arguments": self._arguments(part)}, ensure_ascii=False)
        return f"<tool_call>\n{body}\n</tool_call>"

    def _shown_id(self, call_id: str) -> str:
        if not self.traits.kimi_ids or call_id not in self._calls:
            return call_id
        count, call = self._calls[call_id]
        return f"functions.{call.name}:{count}"

    def _results(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """One dictionary per result, in the order of the calls: clients send them as they complete, and most
        templates show neither name nor id."""
        parts = [part for message in messages for part in message.parts if isinstance(part, ToolResultPart)]
        parts.sort(key=lambda part: self._calls.get(part.call_id, (len(self._calls), None))[0])
        dicts = [self._result(part) for part in parts]
        said = self._content(messages[-1].parts) if messages[-1].role == "user" else ""
        if not self.traits.calls:
            shown = [joined("<tool_response>\n", item["content"], "\n</tool_response>") for item in dicts]
            between = [content for item in shown for content in ("\n", item)][1:]
            return [{"role": "user", "content": joined(*between, *(("\n\n", said) if said else ()))}]
        if said:
            dicts[-1]["content"] = joined(dicts[-1]["content"], "\n\n", said)
        return dicts if self.traits.result_images else _images_after(dicts)

    def _result(self, part: ToolResultPart) -> dict[str, Any]:
        call = self._calls.get(part.call_id)
        content = self._content(part.parts)
        return {
            "role": "tool",
            "tool_call_id": self._shown_id(part.call_id),
            "name": "unknown" if call is None else call[1].name,
            "content": "Error" if part.is_error and not content else content,
        }


def _images_after(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results whose images stand in a user message behind them, for templates that show none in a result."""
    images = [item for result in results for item in _image_dicts(result)]
    if not images:
        return results
    for result in results:
        count = len(_image_dicts(result))
        if count:
            texts = filter(None, [text_of(result["content"]), *[_IMAGE_FOLLOWS] * count])
            result["content"] = "\n".join(texts)
    return [*results, {"role": "user", "content": images}]


def _image_dicts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [item for item in content if isinstance(item, ImageDict)] if isinstance(content, list) else []


def _one_call_each(units: list[Unit]) -> list[Unit]:
    """For templates that refuse several calls in one message: the first stays, each further one moves in front of
    its result."""
    spread = list(units)
    for index, unit in enumerate(units):
        calls = sum(isinstance(part, ToolCallPart) for message in unit.messages for part in message.parts)
        if calls < 2:
            continue
        spread[index] = Unit("assistant", unit.key, unit.end, partial(_first_call_only, unit), unit.messages)
        if index + 1 < len(units) and units[index + 1].kind == "tool":
            after = units[index + 1]
            spread[index + 1] = Unit(
                "tool", after.key, after.end, partial(_after_their_calls, unit, after), after.messages
            )
    return spread


def _first_call_only(answer: Unit) -> list[dict[str, Any]]:
    return [{**answer.dicts[0], "tool_calls": answer.dicts[0]["tool_calls"][:1]}]


def _after_their_calls(answer: Unit, results: Unit) -> list[dict[str, Any]]:
    later = {call["id"]: call for call in answer.dicts[0]["tool_calls"][1:]}
    dicts: list[dict[str, Any]] = []
    for result in results.dicts:
        call = later.get(result.get("tool_call_id"))
        if call is not None:
            dicts.append({"role": "assistant", "content": "", "tool_calls": [call]})
        dicts.append(result)
    return dicts


def _references(message: Message) -> Iterable[ToolReferencePart]:
    for part in message.parts:
        for inner in part.parts if isinstance(part, ToolResultPart) else (part,):
            if isinstance(inner, ToolReferencePart):
                yield inner


def _opening(text: str) -> Unit:
    return Unit("user", text, 0, lambda: [{"role": "user", "content": text}])


def instructed(instructions: str, text: str) -> str:
    return f"{instructions}\n\n{text}" if instructions else text


def _with_instructions(unit: Unit, system: str) -> Unit:
    """The system text in front of the first message, for templates without a system role."""

    def build() -> list[dict[str, Any]]:
        if unit.kind == "user":
            return [{"role": "user", "content": joined(f"{system}\n\n", unit.dicts[0]["content"])}]
        return [{"role": "user", "content": system}, *unit.dicts]

    return Unit(unit.kind, (system, unit.key), unit.end, build, unit.messages)


def parse_arguments(text: str) -> dict[str, Any] | str:
    """The arguments as an object; text that is not one stays text."""
    try:
        value = exact.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
