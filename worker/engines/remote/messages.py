"""A canonical conversation in the words of `/chat/completions`: always the same for the same conversation, so that what
a server has cached of it is found again. Pure, but for documents, which are read as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from shared import exact
from shared.errors import UnsupportedContentError
from shared.messages import (
    DocumentPart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    ResultPart,
    TextPart,
    ToolCallPart,
    ToolReferencePart,
    ToolResultPart,
)
from shared.request import ToolDefinition
from worker.prompt.documents import document_text

_ERROR = "Error: "
_ASKING = """\
# Tools

To call a tool, write a JSON object with its name and arguments within <tool_call></tool_call>, one for each call, and \
nothing behind the last:
<tool_call>
{"name": "tool-name", "arguments": {"parameter": "value"}}
</tool_call>

The tools, as JSON schemas:
"""


class MessageWriter:
    """`writes_tools`: the server takes no tools, so they, their calls and results stand in the text."""

    def __init__(self, *, images: bool, writes_tools: bool, keeps_reasoning: bool) -> None:
        self._images = images
        self._writes_tools = writes_tools
        self._keeps_reasoning = keeps_reasoning

    @property
    def takes_tools(self) -> bool:
        return not self._writes_tools

    def write(self, messages: Sequence[Message], tools: Sequence[ToolDefinition]) -> list[dict[str, Any]]:
        """Raises `UnsupportedContentError`."""
        written = [each for message in messages for each in self._message(message)]
        if self._writes_tools and tools:
            lines = "\n".join(exact.dumps(tool, ensure_ascii=False) for tool in write_tools(tools))
            text = _ASKING + lines
            if written and written[0]["role"] == "system":
                written[0] = {"role": "system", "content": f"{written[0]['content']}\n\n{text}"}
            else:
                written.insert(0, {"role": "system", "content": text})
        return written

    def _message(self, message: Message) -> Iterator[dict[str, Any]]:
        if message.role == "assistant":
            yield self._assistant(message.parts)
        elif message.role == "tool":
            yield from self._results([part for part in message.parts if isinstance(part, ToolResultPart)])
        else:
            yield {"role": message.role, "content": self._content(message.parts)}

    def _assistant(self, parts: Sequence[Part]) -> dict[str, Any]:
        calls = [part for part in parts if isinstance(part, ToolCallPart)]
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        thought = "".join(part.text for part in parts if isinstance(part, ReasoningPart))
        if self._writes_tools and calls:
            text = "\n".join(filter(None, [text, *map(_call_text, calls)]))
            calls = []
        written: dict[str, Any] = {"role": "assistant", "content": text}
        if thought and self._keeps_reasoning:
            written["reasoning_content"] = thought
        if calls:
            written["tool_calls"] = [_call(call) for call in calls]
        return written

    def _results(self, results: Sequence[ToolResultPart]) -> Iterator[dict[str, Any]]:
        for result in results:
            text = (_ERROR if result.is_error else "") + text_of_parts(result.parts)
            if self._writes_tools:
                yield {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}
            else:
                yield {"role": "tool", "tool_call_id": result.call_id, "content": text}
        pictures = [part for result in results for part in result.parts if isinstance(part, ImagePart)]
        if pictures:  # a tool's message holds text alone
            yield {"role": "user", "content": self._content(pictures)}

    def _content(self, parts: Sequence[Part | ResultPart]) -> Any:
        if not any(isinstance(part, ImagePart) for part in parts):
            return text_of_parts(parts)
        return [self._part(part) for part in parts]

    def _part(self, part: Part | ResultPart) -> dict[str, Any]:
        if not isinstance(part, ImagePart):
            return {"type": "text", "text": text_of_parts((part,))}
        if not self._images:
            raise UnsupportedContentError("this server's model does not read images")
        url = f"data:{part.media_type};base64,{part.data}" if part.data else part.url
        return {"type": "image_url", "image_url": {"url": url}}


def text_of_parts(parts: Sequence[Part | ResultPart]) -> str:
    """What of them is text, a line break between them."""
    return "\n".join(text for part in parts if (text := _text_of(part)) is not None)


def _text_of(part: Part | ResultPart) -> str | None:
    match part:
        case TextPart():
            return part.text
        case DocumentPart():
            return document_text(part.media_type, part.data, part.title)
        case ToolReferencePart():
            return f"The tool {part.tool_name} can be called from here on."
        case _:
            return None


def _call(call: ToolCallPart) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}


def _call_text(call: ToolCallPart) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments or "{}"}}}\n</tool_call>'


def write_tools(tools: Sequence[ToolDefinition]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def _function(tool: ToolDefinition) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}
