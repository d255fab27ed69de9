"""Every family of tool calls: streamed as generated, the same however the text is cut, equal to mlx-lm's parser."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.request import ToolDefinition
from worker.formats.readers import CallBegun, CallDelta, CallEnded, CallFormat, CallText, definition

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "Write",
            "description": "Write a file",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "content": {"type": "string"},
                    "mode": {"type": "integer"},
                    "ratio": {"type": "number"},
                    "force": {"type": "boolean"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "options": {"type": "object"},
                    "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "list-files", "description": "", "parameters": {}}},
]


@dataclass
class Call:
    name: str
    arguments: str = ""
    is_valid: bool | None = None

    @property
    def parsed(self) -> Any:
        return json.loads(self.arguments)


@dataclass
class Outcome:
    """What a region came to. `kinds` is the order of calls and texts."""

    calls: list[Call] = field(default_factory=list)
    text: str = ""
    rest: str = ""
    kinds: list[str] = field(default_factory=list)

    def take(self, events: Sequence[Any]) -> None:
        for event in events:
            match event:
                case CallBegun(name=name):
                    name.encode()
                    assert not self.calls or self.calls[-1].is_valid is not None, "calls do not overlap"
                    self.calls.append(Call(name))
                    self.kinds.append("call")
                case CallDelta(arguments=arguments):
                    assert self.calls[-1].is_valid is None
                    assert arguments.encode()
                    self.calls[-1].arguments += arguments
                case CallEnded(is_valid=is_valid):
                    self.calls[-1].is_valid = is_valid
                case CallText(text=text):
                    self.text += text
                    if self.kinds[-1:] != ["text"]:
                        self.kinds.append("text")


def run(family: str, pieces: Sequence[str], *, complete: bool = True, marker: str | None = None) -> Outcome:
    call_format = CallFormat(family)
    reader = call_format.reader(marker or call_format.start, TOOLS)
    outcome = Outcome()
    for index, piece in enumerate(pieces):
        outcome.take(reader.feed(piece))
        if reader.done:
            outcome.rest = reader.rest + "".join(pieces[index + 1 :])
            return outcome
    outcome.take(reader.finish(complete=complete))
    outcome.rest = reader.rest
    assert all(call.is_valid is not None for call in outcome.calls)
    return outcome


def by_mlx_lm(family: str, body: str) -> list[dict[str, Any]]:
    parsed = importlib.import_module(f"mlx_lm.tool_parsers.{family}").parse_tool_call(body, TOOLS)
    return parsed if isinstance(parsed, list) else [parsed]


# How each family writes calls: a list of (name, arguments) to the text between its markers.

Calls = list[tuple[str, dict[str, Any]]]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def write_json_tools(calls: Calls) -> str:
    name, arguments = calls[0]
    return f'\n{{"name": {_json(name)}, "arguments": {_json(arguments)}}}\n'


def write_qwen3_coder(calls: Calls) -> str:
    name, arguments = calls[0]
    body = "".join(f"<parameter={key}>\n{_plain(value)}\n</parameter>\n" for key, value in arguments.items())
    return f"\n<function={name}>\n{body}</function>\n"


def write_glm47(calls: Calls, prefix: str = "") -> str:
    name, arguments = calls[0]
    key_tag, value_tag = f"{prefix}arg_key", f"{prefix}arg_value"
    pairs = (f"<{key_tag}>{k}</{key_tag}>\n<{value_tag}>{_plain(v)}</{value_tag}>\n" for k, v in arguments.items())
    return f"{name}\n" + "".join(pairs)


def write_longcat(calls: Calls) -> str:
    return write_glm47(calls, "longcat_")


def write_minimax_m2(calls: Calls) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        body = "".join(f'<parameter name="{key}">{_plain(value)}</parameter>\n' for key, value in arguments.items())
        return f'<invoke name="{name}">\n{body}</invoke>\n'

    return "\n" + "".join(one(*call) for call in calls)


def write_minicpm5(calls: Calls) -> str:
    def value_text(value: Any) -> str:
        text = _plain(value)
        return f"<![CDATA[{text}]]>" if any(c in text for c in "<&\n") else text

    name, arguments = calls[0]
    body = "".join(f'<param name="{key}">{value_text(value)}</param>' for key, value in arguments.items())
    return f'"{name}">{body}'


def write_muse_spark(calls: Calls) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        body = "".join(
            f'<atem:parameter name="{key}">{_plain(value)}</atem:parameter>\n' for key, value in arguments.items()
        )
        return f'<atem:invoke name="{name}">\n{body}</atem:invoke>\n'

    return "\n" + "".join(one(*call) for call in calls)


def write_kimi_k2(calls: Calls) -> str:
    return "".join(
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{_json(arguments)}<|tool_call_end|>"
        for index, (name, arguments) in enumerate(calls)
    )


def write_kimi_k3(calls: Calls) -> str:
    types = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}

    def one(index: int, name: str, arguments: dict[str, Any]) -> str:
        body = "".join(
            f'<|open|>argument key="{key}" type="{types.get(type(value), "null")}"<|sep|>{_plain(value)}'
            "<|close|>argument<|sep|>"
            for key, value in arguments.items()
        )
        return f'<|open|>call tool="{name}" index="{index}"<|sep|>{body}<|close|>call<|sep|>'

    return "".join(one(index, *call) for index, call in enumerate(calls))


def write_mistral(calls: Calls) -> str:
    return "".join(f"{name}[ARGS]{_json(arguments)}" for name, arguments in calls)


def write_mistral_list(calls: Calls) -> str:
    return " " + _json([{"name": name, "arguments": arguments, "id": "a1b2c3d4e"} for name, arguments in calls])


def write_pythonic(calls: Calls) -> str:
    one = (f"{name}({', '.join(f'{key}={value!r}' for key, value in args.items())})" for name, args in calls)
    return f"[{', '.join(one)}]"


def _gemma_value(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, list):
        return f"[{','.join(map(_gemma_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_gemma_value(item)}" for key, item in value.items()) + "}"
    return _json(value)


def write_gemma4(calls: Calls) -> str:
    return "".join(f"call:{name}{_gemma_value(arguments)}" for name, arguments in calls)


def write_function_gemma(calls: Calls) -> str:
    name, arguments = calls[0]
    pairs = (f"{k}:<escape>{v}<escape>" if isinstance(v, str) else f"{k}:{_json(v)}" for k, v in arguments.items())
    return f"call:{name}{{{','.join(pairs)}}}"


@dataclass(frozen=True)
class Writer:
    """`forbidden` are strings a value cannot hold in this format; `flat`: no lists and objects; `stripped`: outer
    whitespace of a string is lost; `names` that the format can write."""

    family: str
    write: Callable[[Calls], str]
    several: bool = False
    forbidden: tuple[str, ...] = ()
    flat: bool = False
    names: tuple[str, ...] = ("Write", "list-files")


WRITERS = {
    "json_tools": Writer("json_tools", write_json_tools),
    "qwen3_coder": Writer("qwen3_coder", write_qwen3_coder, forbidden=("</parameter>", "<parameter=", "</function>")),
    "glm47": Writer("glm47", write_glm47, forbidden=("arg_key>", "arg_value>")),
    "laguna": Writer("laguna", write_glm47, forbidden=("arg_key>", "arg_value>")),
    "longcat": Writer("longcat", write_longcat, forbidden=("arg_key>", "arg_value>")),
    "minimax_m2": Writer("minimax_m2", write_minimax_m2, True, ("</parameter>", "</invoke>", "<parameter name=")),
    "minicpm5": Writer("minicpm5", write_minicpm5, forbidden=("</param>", "</function>", "]]>", "<param")),
    "muse_spark": Writer("muse_spark", write_muse_spark, True, ("atem:",)),
    "kimi_k2": Writer("kimi_k2", write_kimi_k2, True, ("<|",)),
    "kimi_k3": Writer("kimi_k3", write_kimi_k3, True, ("<|",)),
    "mistral": Writer("mistral", write_mistral, True),
    "mistral list": Writer("mistral", write_mistral_list, True),
    "pythonic": Writer("pythonic", write_pythonic, True, names=("Write", "list_files")),
    "gemma4": Writer("gemma4", write_gemma4, True, ("<|", '|"|', "\x00")),
    "function_gemma": Writer("function_gemma", write_function_gemma, False, ("<escape>", "}"), True, ("Write",)),
}

each_writer = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())

text_values = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30),
    st.sampled_from(
        [
            "null",
            "Null ",
            "nullify",
            "\n",
            " x ",
            "a\nb\n",
            "true",
            "5",
            "a {b} [c], \"d\" 'e'",
            "</tool_call>",
            "<b>bold</b>",
            "\\d+\\n",
            "C:\\temp\\new",
            "für 你好 👋",
            '{"k": 1}',
            "x, y: z",
            "[1",
            "import os\n\ndef f(x):\n    return x == '</p>'\n",
        ]
    ),
)
numbers = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False, width=32))
json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-1000, 1000), st.text(st.sampled_from("abc \"'{}[],:é\n"), max_size=8)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b_1", "c"]), inner, max_size=3),
    max_leaves=5,
)
arguments_of = st.fixed_dictionaries(
    {},
    optional={
        "path": text_values,
        "content": text_values,
        "mode": st.integers(-999, 999),
        "ratio": numbers,
        "force": st.booleans(),
        "tags": st.lists(st.sampled_from(["x", "y z", "é"]), max_size=3),
        "options": st.dictionaries(st.sampled_from(["a", "b_1"]), json_values, max_size=2),
        "either": st.none() | st.integers(0, 9),
        "undeclared": text_values,
    },
)


FAMILIES = sorted({writer.family for writer in WRITERS.values()})


@st.composite
def written_calls(draw: st.DrawFn, writer: Writer) -> Calls:
    calls = draw(st.lists(st.tuples(st.sampled_from(writer.names), arguments_of), min_size=1, max_size=3))
    if not writer.several:
        calls = calls[:1]
    for _, arguments in calls:
        # (JSON has no word for infinity or "not a number"; Python's does.)
        impossible = (*writer.forbidden, "NaN", "Infinity")
        for key in [k for k, v in arguments.items() if any(f in _plain(v) for f in impossible)]:
            del arguments[key]
        if writer.flat:
            for key in [k for k, v in arguments.items() if isinstance(v, (list, dict))]:
                del arguments[key]
    return calls


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, mostly small ones."""
    pieces, at = [], 0
    size = draw(st.sampled_from([1, 2, 3, 7, 50, 10_000]))
    while at < len(text):
        step = draw(st.integers(1, size)) if size < 10_000 else size
        pieces.append(text[at : at + step])
        at += step
    return pieces


@each_writer
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_streamed_arguments_are_those_of_mlx_lms_parser_however_the_text_is_cut(writer: Writer, data: Any) -> None:
    calls = data.draw(written_calls(writer))
    body = writer.write(calls)
    end = CallFormat(writer.family).end
    if (end and end in body) or (writer.family == "longcat" and not calls[0][1]):
        # mlx-lm ends the call at a marker inside a string, and cannot read LongCat without arguments: here both work.
        expected = [{"arguments": arguments} for _, arguments in calls] if writer.family == "json_tools" else None
    else:
        expected = by_mlx_lm(writer.family, body)
    outcome = run(writer.family, data.draw(cut(body + end)))
    assert outcome.text == ""
    assert outcome.rest == ""
    assert [call.name for call in outcome.calls] == [name for name, _ in calls]
    assert all(call.is_valid for call in outcome.calls)
    if expected is not None:
        assert [call.parsed for call in outcome.calls] == [json.loads(_json(call["arguments"])) for call in expected]


@each_writer
def test_arguments_arrive_before_the_call_is_complete(writer: Writer) -> None:
    body = writer.write([("Write", {"path": "/tmp/a.txt", "content": "word " * 50})])
    call_format = CallFormat(writer.family)
    reader = call_format.reader(call_format.start, TOOLS)
    outcome = Outcome()
    for char in body[: len(body) * 3 // 4]:
        outcome.take(reader.feed(char))
    assert outcome.calls[0].name == "Write"
    assert "/tmp/a.txt" in outcome.calls[0].arguments
    if writer.family != "pythonic":
        assert outcome.calls[0].arguments.count("word ") > 20


@each_writer
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_truncated_call_is_cut_where_generation_stopped_and_never_dropped(writer: Writer, data: Any) -> None:
    calls = data.draw(written_calls(writer))
    body = writer.write(calls)
    body = body[: data.draw(st.integers(0, len(body)))]
    whole = run(writer.family, [body] if body else [], complete=False)
    in_pieces = run(writer.family, data.draw(cut(body)), complete=False)
    assert whole == in_pieces
    if not whole.calls:
        assert whole.text + whole.rest == CallFormat(writer.family).start + body
    for call in whole.calls:
        if call.is_valid:
            assert isinstance(call.parsed, dict)


@pytest.mark.parametrize(
    "text",
    [
        '{"arguments": 9, "name": "Write"}'.replace("9", "9" * 5000),
        '{"name": 9}'.replace("9", "9" * 5000),
        '{"name": "W\\ud800", "arguments": "{\\"a\\": \\"\\ud800\\"}"}',
    ],
)
def test_what_python_cannot_read_or_nothing_transport_is_no_crash(text: str) -> None:
    outcome = run("json_tools", [text, "</tool_call>"])
    assert outcome.calls or outcome.text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("opening", ["[", "{", '{"a":', "(", "-", "not ", "<"])
def test_values_nested_beyond_all_bounds_are_no_crash(family: str, opening: str) -> None:
    call_format = CallFormat(family)
    for writer in (writer for writer in WRITERS.values() if writer.family == family):
        body = writer.write([("Write", {"mode": 12345})]).replace("12345", opening * 30_000)
        outcome = run(family, [body, call_format.end])
        assert outcome.calls or outcome.text


noise = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            [
                *"{}[]:,\"'()",
                "\\",
                "\n",
                " ",
                "null",
                "Write",
                "path",
                '"name": "Write"',
                '"arguments": {',
                "<tool_call>",
                "</tool_call>",
                "<function=Write>",
                "<parameter=path>",
                "</parameter>",
                "</function>",
                "<arg_key>path</arg_key>",
                "<arg_value>",
                "</arg_value>",
                '<invoke name="Write">',
                '<parameter name="path">',
                "</invoke>",
                "</minimax:tool_call>",
                '"Write">',
                '<param name="path">',
                "<![CDATA[",
                "]]>",
                "</param>",
                '<atem:invoke name="Write">',
                '<atem:parameter name="path">',
                "</atem:parameter>",
                "</atem:invoke>",
                "</atem:function_calls>",
                "<|tool_call_begin|>",
                "functions.Write:0",
                "<|tool_call_argument_begin|>",
                "<|tool_call_end|>",
                "<|tool_calls_section_end|>",
                '<|open|>call tool="Write"<|sep|>',
                '<|open|>argument key="path" type="string"<|sep|>',
                "<|close|>argument<|sep|>",
                '<|open|>json type="object"<|sep|>',
                "<|close|>json<|sep|>",
                "<|close|>call<|sep|>",
                "<|close|>tools<|sep|>",
                "[TOOL_CALLS]",
                "Write[ARGS]",
                "[CALL_ID]",
                "[Write(",
                "path=",
                ")]",
                "<|tool_call_end|>",
                "call:Write{",
                '<|"|>',
                "<tool_call|>",
                "<escape>",
                "<end_function_call>",
                "<longcat_arg_key>path</longcat_arg_key>",
                "<longcat_arg_value>",
                "</longcat_arg_value>",
                "</longcat_tool_call>",
                '"\\ud800"',
                "9" * 5000,
                '{"arguments": ',
            ]
        ),
    ),
    max_size=25,
).map("".join)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), text=noise, complete=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_text_breaks_a_reader_or_reads_differently_when_cut_differently(
    family: str, data: Any, text: str, complete: bool
) -> None:
    whole = run(family, [text] if text else [], complete=complete)
    assert run(family, list(text), complete=complete) == whole
    assert run(family, data.draw(cut(text)), complete=complete) == whole
    if not whole.calls:
        assert whole.text + whole.rest == CallFormat(family).start + text
    for call in whole.calls:
        if call.is_valid:
            assert isinstance(call.parsed, dict)


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"$ref": "#/$defs/level"}, "2", 2),
        ({"allOf": [{"$ref": "#/$defs/level"}]}, "2", 2),
        ({"enum": [True, False]}, "true", True),
        ({"const": 7}, "7", 7),
        (True, "5", "5"),
    ],
)
def test_a_parameters_type_counts_however_its_schema_says_it(schema: Any, text: str, expected: Any) -> None:
    parameters = {"type": "object", "properties": {"n": schema}, "$defs": {"level": {"type": "integer"}}}
    tools = [definition(ToolDefinition(name="Set", parameters=parameters), "qwen3_coder")]
    reader = CallFormat("qwen3_coder").reader("<tool_call>", tools)
    outcome = Outcome()
    outcome.take(reader.feed(f"\n<function=Set>\n<parameter=n>\n{text}\n</parameter>\n</function>\n</tool_call>"))
    (call,) = outcome.calls
    assert call.parsed == {"n": expected}
