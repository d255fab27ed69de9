"""What a chat template can do, found out by trying it when the model is loaded.

Templates differ in more than their markup: some know no system message, no tools, no second call in one turn, want
arguments as text, or insist on strict turns. Each such thing is tried once with a small conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import InvalidRequestError
from worker.prompt.image_pieces import IMAGE_FORMS, Content, ImageDict, text_dict
from worker.prompt.template import Template, ToolDict

Dicts = Sequence[dict[str, Any]]

_TOOL = ToolDict(
    {
        "type": "function",
        "function": {
            "name": "zztool",
            "description": "zzdescription",
            "parameters": {"type": "object", "properties": {"zzkey": {"type": "string"}}, "required": ["zzkey"]},
        },
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """`system`: a system message is shown. `tools`: tool definitions are; `tools_need_system`: beside one only.
    `calls`: calls and results in history are. `text_arguments`: arguments must be JSON text, not an object.
    `several_calls`: one message may hold several. `user_after_tools`: a user message may follow results.
    `late_system` and `late_tools`: they stand at the last user message, not in the head. `kimi_ids`: a call's id
    stands in the prompt as Kimi writes it, `functions.NAME:COUNT`. `image_form` is how a message's content names an
    image (empty: the template shows none); `result_images`: tool results may hold them, too. `commentary`:
    text beside calls goes where the reasoning is shown (`worker.prompt.harmony`)."""

    system: bool = True
    tools: bool = True
    tools_need_system: bool = False
    calls: bool = True
    text_arguments: bool = False
    several_calls: bool = True
    user_after_tools: bool = True
    late_system: bool = False
    late_tools: bool = False
    kimi_ids: bool = False
    image_form: str = ""
    result_images: bool = False
    commentary: bool = False


def _call(arguments: Any, call_id: str = "call00000") -> dict[str, Any]:
    return {"type": "function", "id": call_id, "function": {"name": "zztool", "arguments": arguments}}


def _result(call_id: str = "call00000", content: Content = "zzresult") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "name": "zztool", "content": content}


_USER: dict[str, Any] = {"role": "user", "content": "zzuser"}


_SYSTEM: dict[str, Any] = {"role": "system", "content": "zzsystem"}


class _Probe:
    def __init__(self, template: Template) -> None:
        self._template = template

    def shows(self, messages: Dicts, *expected: str, tools: Sequence[ToolDict] = ()) -> bool:
        """Whether the template accepts the messages and what it renders holds all of these."""
        text = self.text(messages, tools=tools)
        return text is not None and all(word in text for word in expected)

    def text(self, messages: Dicts, *, tools: Sequence[ToolDict] = ()) -> str | None:
        try:
            return self._template.render(messages, tools, {}, header=False)
        except InvalidRequestError:
            return None


def find_traits(template: Template, patch: str = "", *, harmony: bool = False) -> Traits:
    """`patch` is what stands for an image in the output, where the model reads images."""
    probe = _Probe(template)
    alone = probe.shows([_USER], "zztool", "zzkey", tools=[_TOOL])
    beside = alone or probe.shows([_SYSTEM, _USER], "zztool", "zzkey", tools=[_TOOL])
    tools = [_TOOL] if alone else []
    text_arguments = _wants_text_arguments(probe, tools)
    arguments: Any = '{"zzkey": "zzvalue"}' if text_arguments else {"zzkey": "zzvalue"}
    asked = [_USER, {"role": "assistant", "content": "", "tool_calls": [_call(arguments)]}, _result()]
    other: Any = arguments.replace("zzvalue", "zzsecond") if text_arguments else {"zzkey": "zzsecond"}
    twice = [
        _USER,
        {"role": "assistant", "content": "", "tool_calls": [_call(arguments), _call(other, "call00001")]},
        _result(),
        _result("call00001"),
    ]
    thought = [_USER, {**asked[1], "thinking": "zzthought"}]
    image_form = next((form for form in IMAGE_FORMS if patch and _shows_image(probe, form, patch)), "")
    calls = probe.shows(asked, "zztool", "zzvalue", "zzresult", tools=tools)
    return Traits(
        system=probe.shows([_SYSTEM, _USER], "zzsystem", "zzuser"),
        tools=beside,
        tools_need_system=beside and not alone,
        calls=calls,
        text_arguments=text_arguments,
        several_calls=probe.shows(twice, "zzvalue", "zzsecond", "zzresult", tools=tools),
        user_after_tools=calls
        and probe.shows([*asked, {"role": "user", "content": "zzlater"}], "zzlater", tools=tools),
        late_system=_shows_late(probe, "zzsystem", ()),
        late_tools=_shows_late(probe, "zztool", tools),
        kimi_ids=probe.shows(asked, "<|tool_call_begin|>call00000", tools=tools),
        image_form=image_form,
        commentary=harmony and probe.shows(thought, "zzthought", tools=tools),
        result_images=bool(image_form) and _shows_image(probe, image_form, patch, asked=asked[:-1], tools=tools),
    )


def _shows_image(probe: _Probe, form: str, patch: str, *, asked: Dicts = (), tools: Sequence[ToolDict] = ()) -> bool:
    """Whether an image between texts is shown once, in its place: by a user, or in the result of the call `asked`."""
    content = [text_dict("zzbefore"), ImageDict(form, None), text_dict("zzafter")]
    message = _result(content=content) if asked else {"role": "user", "content": content}
    text = probe.text([*asked, message], tools=tools) or ""
    return text.count(patch) == 1 and text.find("zzbefore") < text.find(patch) < text.find("zzafter")


def _wants_text_arguments(probe: _Probe, tools: Sequence[ToolDict]) -> bool:
    """A template that prints an object it was given shows Python's quotes; one that joins it to text fails."""

    def text_with(arguments: Any) -> str | None:
        return probe.text(
            [_USER, {"role": "assistant", "content": "", "tool_calls": [_call(arguments)]}, _result()], tools=tools
        )

    as_object = text_with({"zzkey": "zzvalue"})
    if as_object is not None and "zzvalue" in as_object and "'zzkey'" not in as_object:
        return False
    as_text = text_with('{"zzkey": "zzvalue"}')
    return as_text is not None and '"zzkey"' in as_text and '\\"zzkey' not in as_text


def _shows_late(probe: _Probe, word: str, tools: Sequence[ToolDict]) -> bool:
    """Whether a word of the head stands after the first user message."""
    messages = [_USER, {"role": "assistant", "content": "zzanswer"}, {"role": "user", "content": "zzlater"}]
    if not tools:
        messages.insert(0, _SYSTEM)
    text = probe.text(messages, tools=tools) or ""
    return 0 <= text.find("zzuser") < text.find(word)


def tools_as_text(tools: Sequence[ToolDict]) -> str:
    """Tools described in words, for a template that has no place for them."""
    lines = "\n".join(tool.json for tool in tools)
    return (
        "# Tools\n\nYou can call the tools listed below. To call one, write its name and arguments as JSON, so:\n"
        '<tool_call>\n{"name": "TOOL", "arguments": {"PARAMETER": "VALUE"}}\n</tool_call>\n'
        f"Its result then comes between <tool_response> and </tool_response>.\n\n<tools>\n{lines}\n</tools>"
    )
