"""Every family of tool calls: what a model wrote arrives, streamed as generated, the same however the text is cut."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import exact
from shared.request import ToolDefinition
from tests.support.call_writers import WRITERS, Calls, Writer, as_json, plain, write_answer
from tests.support.examples import examples
from worker.formats.conversion import ANY, converted
from worker.formats.families import FAMILIES, Braces, Family, Headed, Nested, Objects, Python, Tagged
from worker.formats.readers import CallBegun, CallDelta, CallEnded, CallFormat, CallText, Tools

PROPERTIES: dict[str, Any] = {
    "path": {"type": "string"},
    "content": {"type": "string"},
    "mode": {"type": "integer"},
    "ratio": {"type": "number"},
    "force": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "options": {"type": "object"},
    "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "kind": {"enum": ["text", "null", "5"]},
    "note": {"type": ["string", "null"]},
}
# Other arguments than the declared ones are allowed, so that every family's markup of them is read.
SCHEMA: dict[str, Any] = {"type": "object", "properties": PROPERTIES, "additionalProperties": True}
TOOLS = Tools([ToolDefinition(name=name, parameters=SCHEMA) for name in ("Write", "list-files", "list_files")])
CLOSED = Tools([ToolDefinition(name="Write", parameters={"type": "object", "properties": PROPERTIES})])


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


def run(
    family: Family, pieces: Sequence[str], *, complete: bool = True, marker: str | None = None, tools: Tools = TOOLS
) -> Outcome:
    call_format = CallFormat(family)
    marker = call_format.start if marker is None else marker
    is_bare = marker != call_format.start or not marker
    reader = call_format.bare_reader(marker, tools) if is_bare else call_format.reader(marker, tools)
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


def both(family: Family, text: str, **options: Any) -> Outcome:
    """The outcome, which is the same for the text whole and character by character."""
    whole = run(family, [text] if text else [], **options)
    assert run(family, list(text), **options) == whole
    return whole


def by_mlx_lm(family: Family, body: str) -> list[dict[str, Any]]:
    tools = [
        {"type": "function", "function": {"name": name, "description": "", "parameters": SCHEMA}}
        for name in ("Write", "list-files", "list_files")
    ]
    parsed = importlib.import_module(f"mlx_lm.tool_parsers.{family.name}").parse_tool_call(body, tools)
    return parsed if isinstance(parsed, list) else [parsed]


each_writer = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
each_family = pytest.mark.parametrize(
    "family", [family for family in FAMILIES.values() if family.start], ids=lambda f: f.name
)

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
            "see </parameter> tag\nmore",
            "</arg_value>",
            "a </function>\n",
            "</invoke> and </minimax:tool_call>",
            "    if x:\n        return 1\n",
            "\t\ttabs\t",
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
numbers = st.one_of(st.integers(-(2**63), 2**64), st.floats(allow_nan=False, allow_infinity=False, width=32))
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
        "mode": st.integers(-(2**63), 2**63),
        "kind": st.sampled_from(["text", "null", "5"]),
        "note": st.none() | st.sampled_from(["none", "Null", "x"]),
        "ratio": numbers,
        "force": st.booleans(),
        "tags": st.lists(st.sampled_from(["x", "y z", "é"]), max_size=3),
        "options": st.dictionaries(st.sampled_from(["a", "b_1"]), json_values, max_size=2),
        "either": st.none() | st.integers(0, 9),
        "undeclared": text_values,
    },
)


@st.composite
def written_calls(draw: st.DrawFn, writer: Writer) -> Calls:
    calls = draw(st.lists(st.tuples(st.sampled_from(writer.names), arguments_of), min_size=1, max_size=3))
    if not writer.several:
        calls = calls[:1]
    return [(name, {key: v for key, v in arguments.items() if _can_hold(writer, key, v)}) for name, arguments in calls]


def _can_hold(writer: Writer, key: str, value: Any) -> bool:
    """Whether the family can write the value so that nothing else is meant by it."""
    text = plain(value)
    if any(forbidden in text for forbidden in (*writer.forbidden, "NaN", "Infinity")):
        return False
    if writer.flat and isinstance(value, list | dict):
        return False
    # Of a schema that says nothing, some families take text for the JSON that it spells.
    return key != "undeclared" or not isinstance(value, str) or converted(value, ANY) is None


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
@examples(6, thorough=25)
@given(data=st.data())
def test_what_a_model_wrote_arrives_however_the_text_is_cut(writer: Writer, data: Any) -> None:
    calls = data.draw(written_calls(writer))
    outcome = run(writer.family, data.draw(cut(writer.write(calls) + writer.family.end)))
    assert outcome.text == ""
    assert outcome.rest == ""
    assert [call.name for call in outcome.calls] == [name for name, _ in calls]
    assert all(call.is_valid for call in outcome.calls)
    assert [call.parsed for call in outcome.calls] == [json.loads(as_json(arguments)) for _, arguments in calls]


PARSED = {name: writer for name, writer in WRITERS.items() if writer.family.has_parser}


@pytest.mark.parametrize("writer", PARSED.values(), ids=PARSED.keys())
@examples(3, thorough=25)
@given(data=st.data())
def test_mlx_lms_parser_reads_the_same_where_it_loses_nothing(writer: Writer, data: Any) -> None:
    calls = [
        (name, {key: value for key, value in arguments.items() if not _is_lost(writer, key, value)})
        for name, arguments in data.draw(written_calls(writer))
    ]
    body = writer.write(calls)
    end = writer.family.end
    if (end and end in body) or not all(arguments for _, arguments in calls):
        return  # mlx-lm ends the call at a marker inside a string, and some of its parsers read none without arguments
    outcome = run(writer.family, [body + end])
    expected = [json.loads(as_json(call["arguments"])) for call in by_mlx_lm(writer.family, body)]
    assert [call.parsed for call in outcome.calls] == expected


def _is_lost(writer: Writer, key: str, value: Any) -> bool:
    """Whether mlx-lm's parsers of plain text lose it: white space, strings that spell JSON, digits, markers, types that
    are declared otherwise than by one word."""
    if not isinstance(writer.family.shape, Tagged):
        return False
    text = plain(value)
    is_large = isinstance(value, int | float) and abs(value) >= 2**53
    lost = text.strip() != text or text.lower() in ("null", "none", "nil", "true", "5", "") or is_large
    lost = lost or (isinstance(value, str) and converted(value, ANY) is not None)
    return lost or key in ("undeclared", "note", "kind", "either") or "<" in text or "]]>" in text


@each_writer
def test_arguments_arrive_before_the_call_is_complete(writer: Writer) -> None:
    body = writer.write([("Write", {"path": "/tmp/a.txt", "content": "word " * 50})])
    reader = CallFormat(writer.family).reader(writer.family.start, TOOLS)
    outcome = Outcome()
    for char in body[: len(body) * 3 // 4]:
        outcome.take(reader.feed(char))
    assert outcome.calls[0].name == "Write"
    assert "/tmp/a.txt" in outcome.calls[0].arguments
    if not isinstance(writer.family.shape, Python | Nested):
        assert outcome.calls[0].arguments.count("word ") > 20


@each_writer
@examples(5, thorough=20)
@given(data=st.data())
def test_a_truncated_call_is_cut_where_generation_stopped_and_never_dropped(writer: Writer, data: Any) -> None:
    calls = data.draw(written_calls(writer))
    body = writer.write(calls)
    body = body[: data.draw(st.integers(0, len(body)))]
    whole = run(writer.family, [body] if body else [], complete=False)
    in_pieces = run(writer.family, data.draw(cut(body)), complete=False)
    assert whole == in_pieces
    if not whole.calls:
        assert whole.text + whole.rest == writer.family.start + body
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
    outcome = run(FAMILIES["json_tools"], [text, "</tool_call>"])
    assert outcome.calls or outcome.text


@each_writer
@pytest.mark.parametrize("opening", ["[", "{", '{"a":', "(", "-", "not ", "<"])
def test_values_nested_beyond_all_bounds_are_no_crash(writer: Writer, opening: str) -> None:
    body = writer.write([("Write", {"mode": 12345})]).replace("12345", opening * 30_000)
    outcome = run(writer.family, [body, writer.family.end])
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
                "<\uff5ctool▁call▁begin\uff5c>",
                "Write<\uff5ctool▁sep\uff5c>",
                "function<\uff5ctool▁sep\uff5c>Write\n```json\n",
                "<\uff5ctool▁call▁end\uff5c>",
                '<\uff5cDSML\uff5cinvoke name="Write">',
                '<\uff5cDSML\uff5cparameter name="path" string="true">',
                "</\uff5cDSML\uff5cparameter>",
                "</\uff5cDSML\uff5cinvoke>",
                ']<]minimax[>[<invoke name="Write">',
                "]<]minimax[>[<path>",
                "]<]minimax[>[</path>",
                "]<]minimax[>[</invoke>",
                "</seed:tool_call>",
                "<|tool_call:begin|>7<|tool_call:name|>Write<|tool_call:args|>",
                "<|tool_call:end|>",
                "<|/tool_call|>",
                "</TOOLCALL>",
                "<tool_call>Write\n```json\n",
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


def test_an_opening_that_comes_twice_reads_alike_however_it_is_cut() -> None:
    family = FAMILIES["functionary_v31"]
    outcome = both(family, "<function=Write>", complete=False)
    assert outcome.text + outcome.rest == "<function=<function=Write>"


@each_family
@examples(10, thorough=60)
@given(data=st.data(), text=noise, complete=st.booleans())
def test_no_text_breaks_a_reader_or_reads_differently_when_cut_differently(
    family: Family, data: Any, text: str, complete: bool
) -> None:
    whole = run(family, [text] if text else [], complete=complete)
    assert run(family, list(text), complete=complete) == whole
    assert run(family, data.draw(cut(text)), complete=complete) == whole
    if not whole.calls:
        assert whole.text + whole.rest == family.start + text
    for call in whole.calls:
        if call.is_valid:
            assert isinstance(call.parsed, dict)


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": "string"}, "null", "null"),
        ({"type": "string", "enum": ["null", "none"]}, "null", "null"),
        ({"anyOf": [{"type": "string"}]}, "null", "null"),
        ({"$ref": "#/$defs/level"}, "2", 2),
        ({"allOf": [{"$ref": "#/$defs/level"}]}, "2", 2),
        ({"enum": [True, False]}, "true", True),
        ({"type": "boolean"}, "True", True),
        ({"const": 7}, "7", 7),
        ({"type": "integer"}, "1234567890123456789", 1234567890123456789),
        ({"type": "integer"}, "7.0", 7),
        ({"type": "number"}, "9007199254740993", 9007199254740993),
        ({"type": "object"}, "{'a': [True, None]}", {"a": [True, None]}),
        ({"type": ["string", "array"]}, "[1]", [1]),
        (True, "5", "5"),
    ],
)
def test_a_parameters_type_counts_however_its_schema_says_it(schema: Any, text: str, expected: Any) -> None:
    parameters = {"type": "object", "properties": {"n": schema}, "$defs": {"level": {"type": "integer"}}}
    tools = Tools([ToolDefinition(name="Set", parameters=parameters)])
    answer = f"\n<function=Set>\n<parameter=n>\n{text}\n</parameter>\n</function>\n</tool_call>"
    (call,) = both(FAMILIES["qwen3_coder"], answer, tools=tools).calls
    assert call.parsed == {"n": expected}


# Values that spell the markup around them, in every family of markup.

TAGGED = [family for family in FAMILIES.values() if isinstance(family.shape, Tagged)]
each_tagged = pytest.mark.parametrize("family", TAGGED, ids=lambda family: family.name)


def tagged(family: Family) -> Tagged:
    assert isinstance(family.shape, Tagged)
    return family.shape


@each_tagged
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_value_may_spell_its_own_end(family: Family, place: str) -> None:
    shape = tagged(family)
    value = f"  see {shape.value_end} tag\n{shape.value_end}{shape.value_end} more {shape.call_end}\n "
    arguments = {"content": value, "path": "a"} if place == "first" else {"path": "a", "content": value}
    answer = write_answer(family, [("Write", arguments)]).removeprefix(family.start)
    (call,) = both(family, answer, tools=CLOSED).calls
    assert call.is_valid
    assert call.parsed == arguments


@each_tagged
def test_a_value_may_spell_an_argument_that_was_given_or_that_no_tool_has(family: Family) -> None:
    shape = tagged(family)
    other, again = (f"{shape.key.write(key, 'string')}{shape.value}x{shape.value_end}" for key in ("nothing", "path"))
    if shape.cdata:
        pytest.skip("text with an angle bracket stands in a section there")
    arguments = {"path": "a", "content": f"x{shape.value_end}\n{other}\n{again}\nend"}
    answer = write_answer(family, [("Write", arguments)]).removeprefix(family.start)
    (call,) = both(family, answer, tools=CLOSED).calls
    assert call.parsed == arguments


@st.composite
def quotations(draw: st.DrawFn, family: Family) -> str:
    """Text with whole calls of the family's own format in it, some of which quote one themselves."""
    inner = write_answer(family, [("list-files", {"path": "x"})])
    has_sections = isinstance(family.shape, Tagged) and family.shape.cdata  # which do not stand in one another
    deep = write_answer(family, [("Write", {"path": "y", "content": "so" if has_sections else f"so {inner}"})])
    pieces = [inner, deep, "text", "\n", " ", "  x = 1\n"]
    return "x" + "".join(draw(st.lists(st.sampled_from(pieces), max_size=5)))


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("place", ["first", "last"])
@examples(4, thorough=60)
@given(data=st.data())
def test_a_value_may_quote_whole_calls_of_its_own_format(writer: Writer, place: str, data: Any) -> None:
    family = writer.family
    value = data.draw(quotations(family))
    arguments = {"content": value, "path": "a"} if place == "first" else {"path": "a", "content": value}
    answer = write_answer(family, [("Write", arguments)]).removeprefix(family.start)
    outcome = both(family, answer, tools=NEEDY)
    assert [(call.name, call.parsed, call.is_valid) for call in outcome.calls] == [("Write", arguments, True)]
    assert not (outcome.text + outcome.rest).strip()


@each_tagged
@pytest.mark.parametrize("following", ["", "\nAnd then.", "second call"])
def test_a_value_that_only_begins_a_quotation_ends_where_its_call_does(family: Family, following: str) -> None:
    begun = write_answer(family, [("list-files", {"path": "x"})]).partition("x")[0].rstrip("\n")
    arguments = {"path": "a", "content": f"see {begun}"}
    following = following and write_answer(family, [("Write", {"path": "b", "content": "c"})])
    answer = write_answer(family, [("Write", arguments)]).removeprefix(family.start)
    if tagged(family).cdata:
        pytest.skip("text with an angle bracket stands in a section there")
    outcome = both(family, answer + following, tools=NEEDY)
    assert [(call.parsed, call.is_valid) for call in outcome.calls] == [(arguments, True)]
    assert outcome.rest == following


@each_tagged
def test_a_call_that_is_cut_behind_a_quotation_is_not_whole(family: Family) -> None:
    quoted = write_answer(family, [("list-files", {"path": "x"})])
    answer = write_answer(family, [("Write", {"path": "a", "content": f"see {quoted} and"})]).removeprefix(family.start)
    cut_text = answer[: answer.index(quoted) + len(quoted) + 2]
    (call,) = both(family, cut_text, tools=NEEDY, complete=False).calls
    assert not call.is_valid


NEEDY = Tools(
    [
        ToolDefinition(
            name="Write", parameters={**SCHEMA, "required": ["path", "content"], "additionalProperties": False}
        )
    ]
)


def whole_end(family: Family) -> str:
    """The end of a value, of its call and of the region."""
    shape = tagged(family)
    return f"{shape.frame}{shape.value_end}\n{shape.call_end}\n{family.end}"


@each_tagged
@examples(8, thorough=60)
@given(data=st.data())
def test_a_value_may_spell_the_end_of_its_call_while_a_required_argument_is_missing(family: Family, data: Any) -> None:
    shape = tagged(family)
    element = f"{shape.key.write('path', 'string')}{shape.value}x{shape.value_end}"
    example = write_answer(family, [("Write", {"path": "x"})])
    pieces = [shape.value_end, family.end, whole_end(family), f"{shape.value_end} {family.end}", example, element]
    pieces += ["\n", " ", "text", shape.call_end]
    drawn = data.draw(st.lists(st.sampled_from([piece for piece in pieces if piece]), max_size=6))
    if shape.cdata:
        drawn = [piece for piece in drawn if family.start not in piece]
    value = whole_end(family) + "".join(drawn)
    arguments = {"path": value, "content": "b"}
    answer = write_answer(family, [("Write", arguments)]).removeprefix(family.start)
    (call,) = both(family, answer, tools=NEEDY).calls
    assert call.is_valid
    assert call.parsed == arguments


@each_tagged
@pytest.mark.parametrize("between", ["", "\n", "\nNow the other one.\n"])
def test_a_call_that_lacks_an_argument_does_not_swallow_the_next(family: Family, between: str) -> None:
    first, second = (("Write", {"path": "a"}), ("Write", {"path": "b", "content": "c"}))
    following = between + write_answer(family, [second])
    outcome = both(family, write_answer(family, [first]).removeprefix(family.start) + following, tools=NEEDY)
    assert [call.parsed for call in outcome.calls] == [{"path": "a"}]
    assert all(call.is_valid for call in outcome.calls)
    assert outcome.rest == following


@each_tagged
def test_a_call_that_lacks_an_argument_is_whole_where_the_answer_is_cut_behind_it(family: Family) -> None:
    answer = write_answer(family, [("Write", {"path": "a"})]).removeprefix(family.start) + " and"
    outcome = both(family, answer, tools=NEEDY, complete=False)
    assert [call.parsed for call in outcome.calls] == [{"path": "a"}]
    assert outcome.rest == " and"


@each_tagged
def test_an_argument_that_was_not_closed_ends_where_the_next_declared_one_begins(family: Family) -> None:
    shape = tagged(family)
    answer = write_answer(family, [("Write", {"path": "a", "content": "b"})]).removeprefix(family.start)
    answer = answer.replace(f"{shape.frame}{shape.value_end}", "", 1)
    (call,) = both(family, answer, tools=CLOSED).calls
    assert call.is_valid
    assert call.parsed == {"path": "a", "content": "b"}


def with_slips(family: Family, name: str) -> list[str]:
    """The tag of an argument as models write it now and then."""
    key, value = tagged(family).key, tagged(family).value
    if key.before.endswith("="):
        return [f"{key.before} {name}>", f"{key.before} {name} ", f"{key.before}{name} "]
    if key.before.endswith('"'):
        end = key.after.removeprefix('"')
        return [f"{key.opening}'{name}'{end}", f"{key.opening}{name}{end}", f'{key.opening} "{name}"{end}']
    return [f"{key.before} {name} {key.after}{value}"]


@each_tagged
@pytest.mark.parametrize("before", ["see ", "see\n", ""])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_value_may_speak_of_an_arguments_tag_that_is_not_as_the_family_writes_it(
    family: Family, before: str, is_last: bool
) -> None:
    for slip in with_slips(family, "path"):
        arguments = {"content": f"{before}{slip}there"} | ({} if is_last else {"path": "a"})
        answer = write_answer(family, [("Write", arguments)]).removeprefix(family.start)
        (call,) = both(family, answer, tools=CLOSED).calls
        assert (call.parsed, call.is_valid) == (arguments, True)


@each_tagged
def test_a_tag_with_a_slip_begins_an_argument_where_one_is_due(family: Family) -> None:
    arguments = {"content": "b", "path": "a"}
    answer = write_answer(family, [("Write", arguments)]).removeprefix(family.start)
    key = tagged(family).key
    written = key.write("path", "true" if key.kind == "string" else "string")
    assert written in answer
    for slip in with_slips(family, "path"):
        if not slip.endswith(" ") and not tagged(family).value:
            (call,) = both(family, answer.replace(written, slip), tools=CLOSED).calls
            assert call.parsed == arguments


@each_tagged
def test_an_argument_that_was_not_closed_ends_with_its_call(family: Family) -> None:
    shape = tagged(family)
    whole = write_answer(family, [("Write", {"path": "a"})]).removeprefix(family.start)
    answer = whole.replace(f"{shape.frame}{shape.value_end}", "", 1)
    (call,) = both(family, answer, tools=CLOSED).calls
    assert call.is_valid
    assert call.parsed == {"path": "a"}
    following = both(family, answer + "\n" + family.start + whole, tools=CLOSED)
    assert [call.parsed for call in following.calls] == [{"path": "a"}]
    assert following.rest.strip() == family.start + whole


@each_writer
def test_outer_white_space_unicode_and_64_bits_arrive_as_they_were_written(writer: Writer) -> None:
    arguments = {
        "content": "\n\n    if x:\n        return 'für 你好 👋'\n\n",
        "path": " a b ",
        "mode": -(2**63),
        "ratio": 2**64 + 1,
        "kind": "null",
    }
    (call,) = both(writer.family, writer.write([("Write", arguments)]) + writer.family.end, tools=CLOSED).calls
    assert call.parsed == arguments
    assert str(2**64 + 1) in call.arguments


NUMBERS = ("1e400", "-1e400", "0.1000000000000000055", "12345678901234567890123", "1.50", "NaN", "-Infinity")


@each_writer
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_stay_as_they_were_written_and_what_is_none_is_json_all_the_same(writer: Writer, number: str) -> None:
    given = {"ratio": 111111} if writer.flat else {"ratio": 111111, "options": {"k": [111111]}}
    answer = writer.write([("Write", given)]).replace("111111", number) + writer.family.end
    (call,) = both(writer.family, answer).calls
    assert call.is_valid
    found = exact.loads(call.arguments)
    if number in ("NaN", "-Infinity"):
        assert found["ratio"] in (None, number)
    else:
        assert exact.dumps(found) == as_json(given).replace("111111", number)


def test_elements_inside_elements_are_objects_and_lists() -> None:
    schema = {"properties": {"list": {"type": "array", "items": {"properties": {"id": {"type": "string"}}}}}}
    tools = Tools([ToolDefinition(name="Order", parameters={"type": "object", **schema})])
    family = FAMILIES["minimax_m3"]
    arguments = {"list": [{"id": "5", "more": [1, "x"]}, {"id": "</id>"}]}
    answer = write_answer(family, [("Order", arguments)]).removeprefix(family.start).replace("5<", "5<")
    (call,) = both(family, answer, tools=tools).calls
    assert call.parsed["list"][0]["id"] == "5"
    assert call.parsed["list"][1] == {"id": "</id>"}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Write", "parameters": {"path": "a"}}',
        '[{"name": "Write", "arguments": {"path": "a"}}]',
        '[Write(path="a")]',
        'Write(path="a")]',
        '\n[ Write(path="a") ]\n',
    ],
)
def test_a_call_without_any_marker_is_read_where_it_names_a_tool(text: str) -> None:
    family = FAMILIES["llama"]
    (call,) = both(family, text).calls
    assert (call.name, call.parsed) == ("Write", {"path": "a"})
    outcome = both(family, text.replace("Write", "Nobody"))
    assert not outcome.calls
    assert (outcome.text + outcome.rest).strip() == text.replace("Write", "Nobody").strip()


@pytest.mark.parametrize("place", ["first", "last"])
@examples(10, thorough=100)
@given(data=st.data())
def test_an_elements_text_may_spell_its_own_end(place: str, data: Any) -> None:
    family = FAMILIES["minimax_m3"]
    assert isinstance(family.shape, Nested)
    space = family.shape.space
    key = "path" if place == "first" else "content"
    pieces = [f"{space}</{key}>", f"{space}</other>", space, "text", "\n", " "]
    if place == "first":
        pieces += [f"{space}</{key}>\n{space}</invoke>\n{family.end}", f"{space}</invoke>"]
    value = "x" + "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=6))) + "x"
    arguments = {"path": "a", "content": "b"} | {key: value}
    answer = write_answer(family, [("Write", arguments)]).removeprefix(family.start)
    (call,) = both(family, answer, tools=NEEDY).calls
    assert call.parsed == arguments


# Values in quotes, and their markers around them.
OBJECTS = [writer for writer in WRITERS.values() if isinstance(writer.family.shape, Objects | Headed)]
QUOTED = [*OBJECTS, *(writer for writer in WRITERS.values() if isinstance(writer.family.shape, Python | Braces))]
MARKED = [writer for writer in OBJECTS if isinstance(writer.family.shape, Objects) and writer.family.end]


@pytest.mark.parametrize("writer", QUOTED, ids=lambda writer: writer.family.name)
def test_a_value_in_quotes_may_spell_a_calls_end_and_the_next_ones_beginning(writer: Writer) -> None:
    family = writer.family
    inner = "x" if isinstance(family.shape, Braces) else writer.write([("Write", {"path": "q"})])
    begun = family.start + inner + family.end
    for value in (f"a{begun}{begun}b", f"{family.end}{family.start}", f"{family.end} {family.start} \n{begun}"):
        arguments = {"path": value, "content": "b"}
        (call,) = both(family, writer.write([("Write", arguments)]) + family.end, tools=NEEDY).calls
        assert call.is_valid
        assert call.parsed == arguments


@pytest.mark.parametrize("writer", MARKED, ids=lambda writer: writer.family.name)
@pytest.mark.parametrize("gap", ["", " ", "\n"])
def test_a_string_without_its_closing_quote_ends_where_the_next_call_begins(writer: Writer, gap: str) -> None:
    family = writer.family
    written = writer.write([("Write", {"path": "a"})])
    broken = written[: written.index('"a"') + 2] + family.end
    following = gap + family.start + written + family.end
    outcome = both(family, broken + following)
    assert [call.is_valid for call in outcome.calls] == [False]
    assert outcome.rest.strip() == following.strip()
