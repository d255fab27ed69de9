"""Every call format can be enforced: what a grammar admits is read by our readers as calls of the demanded tools with
arguments that fit their schemas."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from shared.request import GenerateRequest, ToolChoice, ToolDefinition
from tests.support.call_writers import WRITERS, Writer
from tests.support.examples import examples
from tests.support.schemas import validate
from worker.engines.tokens.constraint import Constraint, ConstraintCompiler, Grammar, Markers
from worker.formats.families import FAMILIES as TABLE
from worker.formats.families import Braces, Headed, Objects, Python, Tagged
from worker.formats.grammars import CALL_FORMS
from worker.formats.readers import CallBegun, CallDelta, CallEnded, CallFormat, CallText, Tools

MODEL = Path(__file__).parents[2] / "models" / "agent-full"
FAMILIES = sorted(CALL_FORMS)
# Markers that are tokens of their own in the vocabularies of the families' models.
TOKENS = {
    "function_gemma": ("<start_function_call>", "<end_function_call>", "<escape>"),
    "gemma4": ("<|tool_call>", "<tool_call|>", '<|"|>'),
    "glm47": ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "kimi_k2": (
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
        *("<|tool_call_end|>", "<|tool_call_argument_begin|>"),
    ),
    "kimi_k3": ("<|open|>", "<|close|>", "<|sep|>"),
    "laguna": ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "longcat": ("<longcat_tool_call>", "</longcat_tool_call>", "<longcat_arg_key>", "</longcat_arg_value>"),
    "minimax_m2": ("<minimax:tool_call>", "</minimax:tool_call>"),
    "mistral": ("[TOOL_CALLS]", "[ARGS]"),
    "muse_spark": ("<atem:function_calls>", "</atem:function_calls>"),
    "pythonic": ("<|tool_call_start|>", "<|tool_call_end|>"),
}
# Families whose grammars are those of another with other tags: tried by `make test-all`.
ALIKE = {
    *(
        "apriel",
        "cohere",
        "command_r",
        "deepseek_v31",
        "deepseek_v4",
        "functools",
        "gigachat",
        "granite3",
        "hunyuan",
        "laguna",
    ),
    *("llama", "llama_python", "nemotron", "phi4_mini", "seed_oss", "solar"),
}


def cases(pairs: list[tuple[str, bool]]) -> list[Any]:
    """Families, and whether their markers are tokens of their own."""
    return [pytest.param(*pair, marks=pytest.mark.slow if pair[0] in ALIKE else ()) for pair in pairs]


CASES = [(family, False) for family in FAMILIES] + [(family, True) for family in sorted(TOKENS)]
# Its models write no nested values.
NARROW = {"function_gemma"}
JSON_ONLY = {name for name in FAMILIES if isinstance(TABLE[name].shape, Objects | Headed | Python)}

WRITE = ToolDefinition(
    name="Write",
    parameters={
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "title": {"type": "string", "minLength": 2, "maxLength": 6},
            "mode": {"type": "integer", "minimum": 1, "maximum": 777},
            "ratio": {"type": "number"},
            "force": {"type": "boolean"},
            "kind": {"type": "string", "enum": ["text", "null", "none", "5", "a b"]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
            "options": {
                "type": "object",
                "properties": {"deep": {"$ref": "#/$defs/level"}, "name": {"type": "string"}},
                "required": ["deep"],
                "additionalProperties": False,
            },
            "either": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "note": {"type": ["string", "null"]},
            "mixed": {"anyOf": [{"type": "string", "maxLength": 8}, {"type": "array", "items": {"type": "integer"}}]},
            "level": {"$ref": "#/$defs/level"},
            "choice": {"enum": ["auto", "true", "None", 3]},
            "anything": {},
        },
        "required": ["path", "mode"],
        "additionalProperties": False,
        "$defs": {"level": {"type": "integer", "enum": [1, 2, 3]}},
    },
)
LIST = ToolDefinition(name="list_files", parameters={"type": "object", "properties": {}})
SCALARS = ToolDefinition(
    name="Write",
    parameters={
        "type": "object",
        "properties": {key: WRITE.parameters["properties"][key] for key in ("path", "mode", "force", "kind", "either")},
        "required": ["path", "mode"],
    },
)
# Text that readers might take for something else than a string, or for markup.
SNIPPETS = (
    *(
        "null",
        "None",
        "NULL",
        "nil",
        "true",
        "False",
        "yes",
        "5",
        "-0.5",
        "1e3",
        "inf",
        "NaN",
        "[1]",
        '{"a": 1}',
        '"q"',
    ),
    *("'s'", "b'x'", "...", "-1", "--flag", "./run", "/tmp/x", "it's", 'say "hi"', "set()", "1, 2", "a<b", "a & b"),
    *("\n", "\n\n", " ", "é", "日本", "😀", "\\", "\\n", ",", ":", "}", "]", ")", "=", "<![CDATA[", "]]>", "<", "</"),
    *("</parameter>", "</tool_call>", "<tool_call>", "</function>", "</invoke>", "</arg_value>", "</param>"),
    *("<parameter=mode>", "<arg_key>", "<|close|>argument<|sep|>", '<|"|>', "<escape>", "call:Write{", "[ARGS]"),
)


@cache
def tokenizer_of(family: str, own_tokens: bool) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    if own_tokens:
        tokenizer.add_tokens(
            [AddedToken(text, special=text.startswith("["), normalized=False) for text in TOKENS[family]]
        )
    return tokenizer


@cache
def compiler_of(family: str, own_tokens: bool) -> ConstraintCompiler:
    tokenizer = tokenizer_of(family, own_tokens)
    calls = TABLE[family]
    return ConstraintCompiler(
        tokenizer.to_str(),
        eos_token_ids=[2],
        vocabulary=tokenizer.get_vocab_size(),
        markers=Markers(call_start=calls.start, call_end=calls.end, parser=family),
    )


def state_of(family: str, own_tokens: bool, tools: Sequence[ToolDefinition], **options: Any) -> Constraint:
    compiler = compiler_of(family, own_tokens)
    options.setdefault("tool_choice", ToolChoice(mode="any", parallel=False))
    request = GenerateRequest(id="r", model="m", messages=(), tools=tuple(tools), **options)
    grammar = compiler.compile(request, in_reasoning=False)
    assert grammar is not None
    state = compiler.start(grammar)
    assert state is not None, grammar.warnings
    return state


class Walk:
    """A random answer under a grammar: tokens and whole snippets, then whatever closes it."""

    def __init__(self, tokenizer: Tokenizer, state: Constraint, seed: int) -> None:
        self._tokenizer, self._state = tokenizer, state
        self._random = random.Random(seed)
        self._size = tokenizer.get_vocab_size()
        self.tokens: list[int] = []

    def _take(self, token: int) -> None:
        assert self._state.accept(token)
        self.tokens.append(token)

    def _allowed(self) -> list[int]:
        return [int(token) for token in np.flatnonzero(self._state.allowed(self._size)) if token != 2]

    def _insert(self, text: str) -> None:
        """As much of the text as the grammar admits."""
        for token in self._tokenizer.encode(text, add_special_tokens=False).ids:
            if not self._state.allowed(self._size)[token]:
                return
            self._take(token)

    def run(self, closers: Sequence[str], *, loose: int, limit: int = 600) -> bool:
        """Whether the answer came to its end."""
        while len(self.tokens) < limit:
            if self._state.is_complete and (len(self.tokens) > loose or not self._allowed()):
                return True
            if self._random.random() < 0.3:
                self._insert(self._random.choice(SNIPPETS))
            if len(self.tokens) > loose or self._random.random() < 0.2:
                before = len(self.tokens)
                for text in self._random.sample(closers, len(closers)):
                    self._insert(text)
                if len(self.tokens) > before:
                    continue
            if allowed := self._allowed():
                self._take(self._random.choice(allowed))
        return False

    @property
    def text(self) -> str:
        return str(self._tokenizer.decode(self.tokens, skip_special_tokens=False))


def closers_of(family: str) -> list[str]:
    """What ends whatever a call may be inside of."""
    shape = TABLE[family].shape
    markers: list[str] = []
    match shape:
        case Tagged(value_end=value_end, frame=frame, call_end=call_end):
            markers = [f"{frame}{value_end}\n", f"]]>{value_end}", f"{call_end}\n"]
        case Headed(end=end):
            markers = [end]
        case Braces(quote=quote):
            markers = [quote]
    return [text for text in (*markers, '"', "]", "}", ")", "0", "true", "null", TABLE[family].end) if text.strip()]


def read(family: str, text: str, tools: Tools) -> list[tuple[str, Any]]:
    calls = CallFormat(TABLE[family])
    found: list[tuple[str, str]] = []
    rest = text.strip()
    while rest:
        assert rest.startswith(calls.start), rest
        reader = calls.reader(calls.start, tools) if calls.start else calls.bare_reader("", tools)
        events = reader.feed(rest.removeprefix(calls.start))
        if not reader.done:
            events += reader.finish(complete=True)
        for event in events:
            match event:
                case CallBegun(name=name):
                    found.append((name, ""))
                case CallDelta(arguments=piece):
                    found[-1] = (found[-1][0], found[-1][1] + piece)
                case CallEnded(is_valid=is_valid):
                    assert is_valid, text
                case CallText():
                    pytest.fail(f"not read as a call: {text}")
        rest = reader.rest.strip()
    return [(name, json.loads(arguments)) for name, arguments in found]


def check(family: str, text: str, tools: Sequence[ToolDefinition]) -> list[tuple[str, Any]]:
    found = read(family, text, Tools(tools))
    assert found
    schemas = {tool.name: tool.parameters for tool in tools}
    for name, arguments in found:
        validate(arguments, schemas[name])
    return found


@pytest.mark.parametrize(("family", "own_tokens"), cases(CASES))
@examples(4, thorough=8)
@given(seed=st.integers(0, 2**48))
def test_whatever_a_grammar_admits_is_a_valid_call(family: str, own_tokens: bool, seed: int) -> None:
    tools = [SCALARS if family in NARROW else WRITE, LIST]
    walk = Walk(tokenizer_of(family, own_tokens), state_of(family, own_tokens, tools), seed)
    ended = walk.run(closers_of(family), loose=seed % 60)
    if ended:
        check(family, walk.text, tools)


TEXT = {"type": "string", "maxLength": 5}
TREE = {
    "type": "object",
    "properties": {"name": TEXT, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}},
    "required": ["name"],
    "additionalProperties": False,
}
SCHEMAS: tuple[Any, ...] = (
    *({"type": "string"}, {"type": "string", "minLength": 1}, {"type": "string", "maxLength": 1}, TEXT),
    {"type": "string", "enum": ["a", "b c", "true", "5", "[x]", "null", "None", " lead", "é\n"]},
    *(
        {"type": "integer"},
        {"type": "integer", "minimum": 0},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
    ),
    *({"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}, {"type": "array"}, {"type": "object"}),
    {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {}}}, "minItems": 1},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"x": {"type": "string"}, "y": {"enum": [1, "z", None, True]}}, "required": ["x"]},
    *({"type": ["string", "integer"]}, {"type": ["boolean", "string", "null"]}, {"type": ["array", "null"]}),
    *({"type": ["object", "string"]}, {"type": ["integer", "number"]}, {"enum": ["x", 1, None, False, "yes"]}),
    *(
        {"const": "go"},
        {"const": 7},
        {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 5}]},
    ),
    {"oneOf": [{"type": "boolean"}, {"type": "object", "properties": {"q": {"type": "null"}}, "required": ["q"]}]},
    *({"allOf": [{"type": "string"}, {"minLength": 2}]}, {"$ref": "#/$defs/tree"}, {}, True, {"description": "any"}),
    *({"anyOf": [{"$ref": "#/$defs/text"}, {"type": "null"}]}, {"anyOf": [{"const": "auto"}, {"type": "integer"}]}),
    *({"type": "array", "items": {"enum": ["a", "b"]}}, {"type": "array", "items": {"$ref": "#/$defs/tree"}}),
    {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]},
)


@pytest.mark.parametrize(("family", "own_tokens"), cases([case for case in CASES if case[0] not in NARROW]))
@examples(4, thorough=8)
@given(seed=st.integers(0, 2**48), schemas=st.lists(st.sampled_from(SCHEMAS), min_size=1, max_size=4), data=st.data())
def test_arguments_fit_whatever_schema_a_tool_has(
    family: str, own_tokens: bool, seed: int, schemas: list[Any], data: st.DataObject
) -> None:
    properties = {f"p{index}": schema for index, schema in enumerate(schemas)}
    required = [key for key in properties if data.draw(st.booleans())]
    defined = {"properties": properties, "required": required, "$defs": {"tree": TREE, "text": TEXT}}
    tools = (ToolDefinition(name="Any", parameters={"type": "object", **defined}),)
    grammar = compiled(family, own_tokens, tools=tools, tool_choice=ToolChoice(mode="any", parallel=False))
    state = compiler_of(family, own_tokens).start(grammar)
    if state is None:
        assert "cannot be written" in " ".join(grammar.warnings)
        return
    walk = Walk(tokenizer_of(family, own_tokens), state, seed)
    if walk.run(closers_of(family), loose=seed % 50):
        check(family, walk.text, tools)


def admits(family: str, own_tokens: bool, text: str, **options: Any) -> bool:
    """Whether the whole text may be an answer of which WRITE or LIST is demanded."""
    state = state_of(family, own_tokens, [WRITE, LIST], **options)
    tokenizer = tokenizer_of(family, own_tokens)
    return all(state.accept(token) for token in tokenizer.encode(text, add_special_tokens=False).ids) and (
        state.is_complete
    )


ARGUMENTS: dict[str, Any] = {
    "note": 'see <b>below</b>:\n- one (1)\n- "two"\n',
    "path": "src/main.py",
    "mode": 3,
    "title": "a b",
    "kind": "text",
    "ratio": -0.25,
    "force": True,
    "options": {"deep": 2, "name": "x"},
    "level": 1,
    "either": None,
}
DEFECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "another tool": ("Erase", ARGUMENTS),
    "a required argument left out": ("Write", {key: ARGUMENTS[key] for key in ARGUMENTS if key != "mode"}),
    "an undeclared argument": ("Write", ARGUMENTS | {"color": "red"}),
    "text for a number": ("Write", ARGUMENTS | {"mode": "three"}),
    "a number out of range": ("Write", ARGUMENTS | {"mode": 778}),
    "a number for true or false": ("Write", ARGUMENTS | {"force": 3}),
    "a word not in the enumeration": ("Write", ARGUMENTS | {"kind": "texts"}),
    "a text that is too long": ("Write", ARGUMENTS | {"title": "abcdefg"}),
    "an object without what it requires": ("Write", ARGUMENTS | {"options": {"name": "x"}}),
}


def answer_of(writer: Writer, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
    """As a model of the family writes it, and whether the vocabulary has its markers. (Our writer of FunctionGemma's
    calls writes no objects, that of Python's none as JSON.)"""
    calls = writer.family
    if writer.flat or isinstance(writer.family.shape, Python):
        arguments = {key: value for key, value in arguments.items() if key != "options"}
    return f"{calls.start}{writer.write([(name, arguments)])}{calls.end}", writer.family.name in TOKENS


def in_schema_order(arguments: dict[str, Any]) -> dict[str, Any]:
    """JSON objects are enforced in the order of their schema."""
    declared = [*WRITE.parameters["properties"], *arguments]
    return {key: arguments[key] for key in dict.fromkeys(declared) if key in arguments}


each_writer = pytest.mark.parametrize(
    "writer",
    [
        pytest.param(writer, id=name, marks=pytest.mark.slow if name in ALIKE else ())
        for name, writer in WRITERS.items()
        if name != "mistral list" and name in CALL_FORMS
    ],
)


@each_writer
def test_a_call_as_the_family_writes_it_is_admitted(writer: Writer) -> None:
    ordered = writer.family.name in JSON_ONLY
    text, own_tokens = answer_of(writer, "Write", in_schema_order(ARGUMENTS) if ordered else ARGUMENTS)
    assert admits(writer.family.name, own_tokens, text)
    ((name, arguments),) = check(writer.family.name, text, [WRITE])
    assert name == "Write"
    assert set(arguments) >= set(ARGUMENTS) - {"options"}


@each_writer
@pytest.mark.parametrize(
    ("key", "usual"), [("path", "src/main.py"), ("note", "so"), ("mixed", "so"), ("choice", "auto")]
)
def test_text_that_may_mean_something_else_is_admitted_only_where_it_is_read_right(
    writer: Writer, key: str, usual: str
) -> None:
    grammar = compiled(
        writer.family.name, writer.family.name in TOKENS, tools=(WRITE,), tool_choice=ToolChoice(mode="any")
    )
    for value in (usual, *(text for text in SNIPPETS if not (writer.flat and "}" in text))):
        text, own_tokens = answer_of(writer, "Write", in_schema_order({"path": "x", "mode": 3} | {key: value}))
        is_admitted = passes(writer.family.name, own_tokens, grammar, text)
        assert is_admitted or value != usual
        if is_admitted:
            check(writer.family.name, text, [WRITE])


@each_writer
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_call_with_a_defect_is_not_admitted(writer: Writer, defect: str) -> None:
    name, arguments = DEFECTS[defect]
    if (writer.flat or isinstance(writer.family.shape, Python)) and "object" in defect:
        pytest.skip("this writer leaves objects out")
    text, own_tokens = answer_of(
        writer, name, in_schema_order(arguments) if writer.family.name in JSON_ONLY else arguments
    )
    assert not admits(writer.family.name, own_tokens, text)


STRICT = {"tools": (replace(WRITE, strict=True), LIST), "tool_choice": ToolChoice(mode="auto")}


def compiled(family: str, own_tokens: bool = False, **options: Any) -> Grammar:
    request = GenerateRequest(id="r", model="m", messages=(), **options)
    grammar = compiler_of(family, own_tokens).compile(request, in_reasoning=False)
    assert grammar is not None
    return grammar


def passes(family: str, own_tokens: bool, grammar: Grammar, text: str) -> bool:
    """Whether the whole text may be an answer."""
    state = compiler_of(family, own_tokens).start(grammar)
    assert state is not None
    tokens = tokenizer_of(family, own_tokens).encode(text, add_special_tokens=False).ids
    return all(state.accept(token) for token in tokens) and state.is_complete


@each_writer
@pytest.mark.parametrize("own_tokens", [False, True])
def test_a_strict_tool_leaves_text_free_and_its_calls_not(writer: Writer, own_tokens: bool) -> None:
    family = writer.family.name
    if own_tokens and family not in TOKENS:
        pytest.skip("the vocabulary has the markers of this family")
    if family == "mistral" and not own_tokens:
        writer = WRITERS["mistral list"]
    grammar = compiled(family, own_tokens, **STRICT)
    arguments = in_schema_order({"path": "x", "mode": 7, "force": True})
    good = f"{TABLE[family].start}{writer.write([('Write', arguments)])}{TABLE[family].end}"
    bad = f"{TABLE[family].start}{writer.write([('Write', arguments | {'mode': 'y'})])}{TABLE[family].end}"
    good = good.replace(', "id": "a1b2c3d4e"', "")
    assert passes(family, own_tokens, grammar, "Nothing to do here.")
    assert passes(family, own_tokens, grammar, "")
    assert passes(family, own_tokens, grammar, "Now:\n" + good)
    assert not passes(family, own_tokens, grammar, "Now:\n" + bad)
    assert passes(family, own_tokens, grammar, good + "\nDone.") == bool(TABLE[family].end)


@pytest.mark.parametrize(
    "writer", [w for w in WRITERS.values() if w.several and w.family.name in CALL_FORMS], ids=lambda w: w.family.name
)
def test_several_calls_only_where_they_are_asked_for(writer: Writer) -> None:
    family = writer.family.name
    own_tokens = family in TOKENS and writer is not WRITERS["mistral list"]
    if family == "gemma4":
        pytest.skip("its models write one call between the markers")
    name = "list_files"
    text = f"{TABLE[family].start}{writer.write([(name, {}), (name, {})])}{TABLE[family].end}"
    text = text.replace(', "id": "a1b2c3d4e"', "")
    for parallel in (True, False):
        choice = ToolChoice(mode="any", parallel=parallel)
        grammar = compiled(family, own_tokens, tools=(WRITE, LIST), tool_choice=choice)
        assert passes(family, own_tokens, grammar, text) is parallel


def test_arguments_come_in_any_order_and_once() -> None:
    first, second = "<parameter=path>\nx\n</parameter>\n", "<parameter=mode>\n5\n</parameter>\n"
    call = "<tool_call>\n<function=Write>\n{}</function>\n</tool_call>"
    assert admits("qwen3_coder", False, call.format(first + second))
    assert admits("qwen3_coder", False, call.format(second + first))
    assert not admits("qwen3_coder", False, call.format(first + second + first))


def test_more_arguments_than_can_be_counted_come_in_the_order_of_the_schema() -> None:
    names = [f"a{index}" for index in range(70)]
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in names}, "required": ["a3"]}
    tools = (ToolDefinition(name="Many", parameters=schema),)
    grammar = compiled("qwen3_coder", tools=tools, tool_choice=ToolChoice(mode="any"))

    def call(*keys: str) -> str:
        pairs = "".join(f"<parameter={key}>\n5\n</parameter>\n" for key in keys)
        return f"<tool_call>\n<function=Many>\n{pairs}</function>\n</tool_call>"

    assert passes("qwen3_coder", False, grammar, call("a0", "a3", "a69"))
    assert passes("qwen3_coder", False, grammar, call("a3"))
    assert not passes("qwen3_coder", False, grammar, call("a0"))
    assert not passes("qwen3_coder", False, grammar, call("a3", "a0"))


def test_what_a_format_cannot_write_is_left_out_and_said() -> None:
    odd = ToolDefinition(
        name="Odd",
        parameters={
            "type": "object",
            "properties": {
                "two words": {"type": "string"},
                "flag": {"anyOf": [{"type": "boolean"}, {"type": "number"}]},
            },
        },
    )
    demanded = {"tool_choice": ToolChoice(mode="any"), "tools": (odd,)}
    assert compiled("qwen3_coder", **demanded).warnings == ("`two words` of `Odd` cannot be written and is left out",)
    dashed = ToolDefinition(name="a-b", parameters={"type": "object"})
    both = compiled("pythonic", tools=(dashed, LIST), tool_choice=ToolChoice(mode="any"))
    assert passes("pythonic", False, both, "<|tool_call_start|>[list_files()]<|tool_call_end|>")
    assert both.warnings == ("`a-b` cannot be called in this model's format: its name cannot be written",)
    alone = compiled("pythonic", tools=(dashed,), tool_choice=ToolChoice(mode="any"))
    assert not alone.text
    assert alone.warnings == both.warnings


EXOTIC = ToolDefinition(
    name="Exotic",
    parameters={
        "type": "object",
        "properties": {
            "away": {"$ref": "https://example.com/away.json"},
            "pattern": {"type": "string"},
            "either": {"oneOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 9}]},
            "set": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        },
        "required": ["pattern"],
        "dependentRequired": {"away": ["pattern"]},
        "not": {"required": ["away"]},
    },
)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ALIKE])
def test_what_is_not_enforced_is_said_and_everything_else_is_enforced(family: str) -> None:
    grammar = compiled(family, tools=(EXOTIC, WRITE), tool_choice=ToolChoice(mode="any"))
    if family not in WRITERS:
        pytest.skip("its calls stand in the text without a marker: see below")
    writer = WRITERS["mistral list" if family == "mistral" else family]

    def passing(name: str, arguments: dict[str, Any]) -> bool:
        text = f"{TABLE[family].start}{writer.write([(name, arguments)])}{TABLE[family].end}"
        return passes(family, False, grammar, text.replace(', "id": "a1b2c3d4e"', ""))

    said = " ".join(grammar.warnings)
    assert "`$ref`" in said
    for keyword in ("dependentRequired", "not", "uniqueItems"):
        assert f"`{keyword}`" in said
    assert passing("Write", {"path": "x", "mode": 5})
    assert not passing("Write", {"path": "x", "mode": "y"})
    assert passing("Exotic", {"pattern": "x"})
    assert passing("Exotic", {"pattern": "x", "either": 5})
    assert not passing("Exotic", {"either": 5})
    assert not passing("Exotic", {"pattern": "x", "either": "y"})


def test_references_lead_where_they_led_in_every_format() -> None:
    for family in FAMILIES:
        grammar = compiled(family, tools=(WRITE,), tool_choice=ToolChoice(mode="any"))
        assert grammar.text
        assert not grammar.warnings, family


def test_a_reasoning_block_ends_before_the_call_where_its_marker_is_no_token() -> None:
    calls = TABLE["json_tools"]
    markers = Markers(
        think_start="[think]",
        think_end="[/think]",
        call_start=calls.start,
        call_end=calls.end,
        parser="json_tools",
    )
    tokenizer = tokenizer_of("json_tools", False)
    compiler = ConstraintCompiler(
        tokenizer.to_str(), eos_token_ids=[2], vocabulary=tokenizer.get_vocab_size(), markers=markers
    )
    request = GenerateRequest(id="r", model="m", messages=(), tools=(LIST,), tool_choice=ToolChoice(mode="any"))
    call = '<tool_call>{"name": "list_files", "arguments": {}}</tool_call>'

    def ends(text: str) -> bool:
        grammar = compiler.compile(request, in_reasoning=True)
        assert grammar is not None
        state = compiler.start(grammar)
        assert state is not None
        return all(state.accept(token) for token in tokenizer.encode(text).ids) and state.is_complete

    assert ends(f"Let me see.[/think]\n{call}")
    assert not ends(f"Let me see.[/think] But first: {call}")


MALFORMED: tuple[Any, ...] = (
    {"type": "string", "minLength": 2, "maxLength": "five"},
    {"type": "array", "minItems": [], "items": 5},
    {"type": [{"a": 1}, "integer"], "enum": 3},
    {"anyOf": 3, "properties": "none"},
    {"anyOf": [{"$ref": "#/properties/odd"}, {"$ref": "#/properties/odd"}]},
    {"type": "object", "properties": {"x": "y"}, "required": [["x"], 5]},
)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ALIKE])
@pytest.mark.parametrize("schema", MALFORMED)
def test_a_malformed_schema_is_served_and_said(family: str, schema: Any) -> None:
    tool = ToolDefinition(name="Odd", parameters={"type": "object", "properties": {"odd": schema}, "required": ["odd"]})
    assert Tools([tool]).of("Odd").may_begin("odd", frozenset())
    grammar = compiled(family, tools=(tool,), tool_choice=ToolChoice(mode="any"))
    assert grammar.text or "enforced" in " ".join(grammar.warnings) or "written" in " ".join(grammar.warnings)


@pytest.mark.parametrize("family", ["llama", "llama_python"])
def test_a_call_without_a_marker_is_demanded_and_left_free(family: str) -> None:
    call = '{"name": "list_files", "parameters": {}}' if family == "llama" else "[list_files()]"
    demanded = compiled(family, tools=(LIST,), tool_choice=ToolChoice(mode="any"))
    assert passes(family, False, demanded, call)
    assert not passes(family, False, demanded, "Nothing to do here.")
    strict = compiled(family, tools=(replace(LIST, strict=True),))
    assert passes(family, False, strict, call)
    assert passes(family, False, strict, "Nothing to do here [1].")
    assert not passes(family, False, strict, call.replace("list_files", "erase"))
    assert read(family, call, Tools([LIST])) == [("list_files", {})]


@pytest.mark.parametrize("seed", [17, 19])
def test_strings_inside_json_never_spell_the_end_of_an_argument_that_is_written_with_several_tags(seed: int) -> None:
    tools = (ToolDefinition(name="Any", parameters={"properties": {"p0": {"type": "object"}}, "required": ["p0"]}),)
    grammar = compiled("kimi_k3", False, tools=tools, tool_choice=ToolChoice(mode="any", parallel=False))
    walk = Walk(tokenizer_of("kimi_k3", False), compiler_of("kimi_k3", False).start(grammar), seed)
    if walk.run(closers_of("kimi_k3"), loose=seed % 50):
        check("kimi_k3", walk.text, tools)
