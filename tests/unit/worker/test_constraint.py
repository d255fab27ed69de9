"""Answers that must have a form get it, and a schema that cannot be enforced is never refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from shared.errors import InvalidRequestError
from shared.messages import Message, TextPart, ToolReferencePart, ToolResultPart
from shared.request import GenerateRequest, ReasoningOptions, ToolChoice, ToolDefinition
from worker.engines.tokens.constraint import ConstraintCompiler, Grammar, Markers

MODEL = Path(__file__).parents[2] / "models" / "agent-full"
BASH = ToolDefinition(
    name="Bash",
    parameters={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"command": {"type": "string"}, "timeout": {"type": "number", "maximum": 9007199254740991}},
        "required": ["command"],
        "additionalProperties": False,
    },
)
READ = ToolDefinition(name="Read", parameters={"type": "object", "properties": {"path": {"type": "string"}}})
MARKERS = Markers(
    think_start="<think>", think_end="</think>", call_start="<tool_call>", call_end="</tool_call>", parser="json_tools"
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def compiler(tokenizer):
    text = (MODEL / "tokenizer.json").read_text()
    return ConstraintCompiler(text, eos_token_ids=[2], vocabulary=tokenizer.get_vocab_size(), markers=MARKERS)


def request(**changes):
    return GenerateRequest(id="r", model="m", messages=(), **changes)


def accepted(compiler, tokenizer, grammar: Grammar, text: str) -> bool:
    """Whether the grammar lets the whole text pass and the answer end after it."""
    state = compiler.start(grammar)
    for token in tokenizer.encode(text).ids:
        if not state.allowed(tokenizer.get_vocab_size())[token] or not state.accept(token):
            return False
    return state.is_complete


CALL = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "Read", "arguments": {"path": "x"}}\n</tool_call>'
WRONG = '<tool_call>\n{"name": "Bash", "arguments": {"path": "x"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("choice", "text", "expected"),
    [
        (ToolChoice(mode="any"), CALL, True),
        (ToolChoice(mode="any"), CALL + "\n" + OTHER, True),
        (ToolChoice(mode="any"), "<think>\nwell\n</think>\n\n" + CALL, True),
        (ToolChoice(mode="any"), "no call at all", False),
        (ToolChoice(mode="any"), WRONG, False),
        (ToolChoice(mode="any", parallel=False), CALL + "\n" + OTHER, False),
        (ToolChoice(mode="tool", name="Read"), OTHER, True),
        (ToolChoice(mode="tool", name="Read"), CALL, False),
    ],
)
def test_a_demanded_call_is_the_only_answer(compiler, tokenizer, choice, text, expected):
    grammar = compiler.compile(request(tools=(BASH, READ), tool_choice=choice), in_reasoning=False)
    assert grammar is not None
    assert not grammar.warnings
    assert accepted(compiler, tokenizer, grammar, text) is expected


def test_a_strict_tool_leaves_text_free_and_holds_its_calls_to_the_schema(compiler, tokenizer):
    strict = ToolDefinition(name="Bash", parameters=BASH.parameters, strict=True)
    grammar = compiler.compile(request(tools=(strict,)), in_reasoning=False)
    assert accepted(compiler, tokenizer, grammar, "just some text")
    assert accepted(compiler, tokenizer, grammar, "now: " + CALL)
    assert not accepted(compiler, tokenizer, grammar, "now: " + WRONG)


def test_a_response_schema_allows_only_json_that_fits(compiler, tokenizer):
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    grammar = compiler.compile(request(response_schema=schema), in_reasoning=False)
    assert accepted(compiler, tokenizer, grammar, '{"title": "Hello"}')
    assert not accepted(compiler, tokenizer, grammar, '{"name": "Hello"}')
    assert not accepted(compiler, tokenizer, grammar, "Hello")


TITLE = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


@pytest.mark.parametrize(
    ("choice", "json_fits", "call_fits", "two_fit"),
    [
        (ToolChoice(), True, True, True),
        (ToolChoice(parallel=False), True, True, False),
        (ToolChoice(mode="none"), True, False, False),
        (ToolChoice(mode="any"), False, True, True),
        (ToolChoice(mode="tool", name="Bash", parallel=False), False, True, False),
    ],
)
def test_beside_a_response_schema_tools_can_be_called_and_are_where_that_is_demanded(
    compiler, tokenizer, choice, json_fits, call_fits, two_fit
):
    asked = request(response_schema=TITLE, tools=(BASH,), tool_choice=choice)
    grammar = compiler.compile(asked, in_reasoning=False)
    assert not grammar.warnings
    for text, expected in (
        ('{"title": "x"}', json_fits),
        (CALL, call_fits),
        (CALL + "\n" + CALL, two_fit),
        (f"<think>\nwell\n</think>\n\n{CALL}", call_fits),
        (WRONG, False),
        ('{"name": "x"}', False),
        ("just text", False),
        (CALL + '{"title": "x"}', False),
    ):
        assert accepted(compiler, tokenizer, grammar, text) is expected, text


def test_a_response_schema_is_kept_beside_tools_that_cannot_be_written(tokenizer):
    text = (MODEL / "tokenizer.json").read_text()
    size = tokenizer.get_vocab_size()
    odd = ConstraintCompiler(text, eos_token_ids=[2], vocabulary=size, markers=replace(MARKERS, parser="unknown"))
    grammar = odd.compile(request(response_schema=TITLE, tools=(BASH,)), in_reasoning=False)
    assert accepted(odd, tokenizer, grammar, '{"title": "x"}')
    assert not accepted(odd, tokenizer, grammar, CALL)
    assert "cannot be enforced" in grammar.warnings[0]


def test_an_empty_schema_asks_for_any_object(compiler, tokenizer):
    grammar = compiler.compile(request(response_schema={}), in_reasoning=False)
    assert accepted(compiler, tokenizer, grammar, '{"a": [1, {"b": null}]}')
    assert not accepted(compiler, tokenizer, grammar, "[1]")


def test_an_open_reasoning_block_is_finished_first(compiler, tokenizer):
    grammar = compiler.compile(request(response_schema={}), in_reasoning=True)
    assert accepted(compiler, tokenizer, grammar, 'I think.\n</think>\n\n{"a": 1}')
    assert not accepted(compiler, tokenizer, grammar, '{"a": 1}')


def test_reasoning_that_was_switched_off_is_not_allowed(compiler, tokenizer):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    for enabled, expected in ((None, True), (True, True), (False, False)):
        wanted = request(response_schema=schema, reasoning=ReasoningOptions(enabled=enabled))
        grammar = compiler.compile(wanted, in_reasoning=False)
        assert accepted(compiler, tokenizer, grammar, '<think>\nwell\n</think>\n\n{"n": 1}') is expected
        assert accepted(compiler, tokenizer, grammar, '{"n": 1}')


@pytest.mark.parametrize(
    "demand", [{"response_schema": {}}, {"tools": (BASH,), "tool_choice": ToolChoice(mode="any")}], ids=["json", "call"]
)
def test_reasoning_before_a_form_is_the_models_own_wish_and_only_at_the_start(compiler, tokenizer, demand):
    (think,) = tokenizer.encode("<think>").ids
    size = tokenizer.get_vocab_size()

    def voluntary(state):
        tokens = state.voluntary(size)
        return None if tokens is None else set(np.flatnonzero(tokens).tolist())

    state = compiler.start(compiler.compile(request(**demand), in_reasoning=False))
    assert voluntary(state) == {think}
    assert state.allowed(size)[think]
    state.accept(think)
    assert voluntary(state) is None
    assert voluntary(compiler.start(compiler.compile(request(**demand), in_reasoning=True))) is None


def test_a_deferred_tool_is_called_only_after_it_was_referenced(compiler, tokenizer):
    deferred = ToolDefinition(name="Read", parameters=READ.parameters, deferred=True)
    wanted = request(tools=(BASH, deferred), tool_choice=ToolChoice(mode="any"))
    found = ToolResultPart(call_id="c", parts=(ToolReferencePart(tool_name="Read"),))
    after = replace(wanted, messages=(Message(role="tool", parts=(found,)),))
    for asked, expected in ((wanted, False), (after, True)):
        grammar = compiler.compile(asked, in_reasoning=False)
        assert accepted(compiler, tokenizer, grammar, OTHER) is expected
        assert accepted(compiler, tokenizer, grammar, CALL)


def test_nothing_is_compiled_for_a_request_that_demands_nothing(compiler):
    assert compiler.compile(request(), in_reasoning=False) is None
    assert compiler.compile(request(tools=(BASH,)), in_reasoning=False) is None
    assert compiler.compile(request(tools=(BASH,), tool_choice=ToolChoice(mode="none")), in_reasoning=False) is None


def test_a_keyword_that_cannot_be_enforced_is_dropped_with_a_warning(compiler, tokenizer):
    schema = {
        "type": "object",
        "properties": {"pattern": {"type": "string", "pattern": "(?=x)y"}},
        "required": ["pattern"],
        "additionalProperties": False,
    }
    grammar = compiler.compile(request(response_schema=schema), in_reasoning=False)
    assert grammar.warnings == ("`pattern` is not enforced (`pattern`)",)
    assert accepted(compiler, tokenizer, grammar, json.dumps({"pattern": "anything"}))
    assert not accepted(compiler, tokenizer, grammar, json.dumps({"other": "anything"}))


def test_a_schema_of_which_nothing_can_be_enforced_asks_for_any_json(compiler, tokenizer):
    grammar = compiler.compile(request(response_schema={"$ref": "https://example.com/away.json"}), in_reasoning=False)
    assert grammar.warnings == ("a `$ref` that leads nowhere is not enforced",)
    assert accepted(compiler, tokenizer, grammar, '["x"]')
    assert not accepted(compiler, tokenizer, grammar, "x")


ODD = {
    "minimum": {"type": "integer", "minimum": -9223372036854775808},
    "type": {"type": "int"},
    "enum": {"type": "integer", "enum": 7},
    "multipleOf": {"type": "integer", "multipleOf": 0},
    "exclusiveMaximum": {"type": "integer", "exclusiveMaximum": "9"},
    "format": {"type": "integer", "format": "int64"},
    "not": {"type": "integer", "not": {"type": "string"}},
}


@pytest.mark.parametrize("keyword", ODD)
@pytest.mark.parametrize("place", ["property", "definition", "list", "union"])
def test_one_keyword_that_cannot_be_enforced_is_all_that_is_lost(compiler, tokenizer, keyword, place):
    """As a tool's parameter and in an answer's schema; its neighbours keep their own such keywords."""
    odd = ODD[keyword]
    value = {
        "property": odd,
        "definition": {"$ref": "#/$defs/odd"},
        "list": {"type": "array", "items": odd, "minItems": 1},
        "union": {"anyOf": [odd, {"type": "boolean"}]},
    }[place]
    schema = {
        "type": "object",
        "properties": {"n": value, "kept": {"type": "integer", "minimum": 5}},
        "required": ["n", "kept"],
        "additionalProperties": False,
        **({"$defs": {"odd": odd}} if place == "definition" else {}),
    }
    good, wrong_kept = ("[7]", "[7]") if place == "list" else ("7", "7")
    wrong_n = None if keyword == "type" else '["x"]' if place == "list" else '"x"'
    tool = ToolDefinition(name="T", parameters=schema)
    for wanted, tool_name, form in (
        (request(response_schema=schema), "", "%s"),
        (
            request(tools=(BASH, tool), tool_choice=ToolChoice(mode="any")),
            "tool `T`: ",
            '<tool_call>\n{"name": "T", "arguments": %s}\n</tool_call>',
        ),
    ):
        grammar = compiler.compile(wanted, in_reasoning=False)
        paths = {"list": "`n[]`", "definition": "`$defs.odd`"}.get(place, "`n`")
        assert set(grammar.warnings) <= {f"`{keyword}` is not enforced ({tool_name}{paths})"}
        assert accepted(compiler, tokenizer, grammar, form % f'{{"n": {good}, "kept": 5}}')
        assert not accepted(compiler, tokenizer, grammar, form % f'{{"n": {wrong_kept}, "kept": 4}}')
        if wrong_n:
            assert not accepted(compiler, tokenizer, grammar, form % f'{{"n": {wrong_n}, "kept": 5}}')


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "integer"}, "1" * 40, False),
        ({"type": "integer"}, "-9223372036854775808", True),
        ({"type": "integer"}, "18446744073709551615", True),
        ({"type": "integer", "minimum": 1}, "1" * 40, False),
        ({"type": "number"}, "0." + "3" * 40, False),
        ({"type": "number"}, "1e" + "9" * 40, False),
        ({"type": "number"}, "-2.2250738585072014e-308", True),
        ({}, "1" * 40, False),
        ({}, json.dumps("1" * 100), True),
        ({}, json.dumps("x" + "1" * 100 + "y"), True),
        ({"type": "string", "pattern": "^[0-9]{40}$"}, json.dumps("1" * 40), True),
        ({"type": "string", "pattern": "^[0-9]*$"}, json.dumps("1" * 40), True),
        ({"const": 10**39}, str(10**39), True),
        ({"type": "number", "exclusiveMinimum": 0}, "0." + "0" * 30 + "1", False),
        ({"type": "number", "exclusiveMinimum": 0}, "0." + "0" * 20 + "1", True),
    ],
)
def test_numbers_come_to_an_end(compiler, tokenizer, schema, text, expected):
    whole = {"type": "object", "properties": {"n": schema}, "required": ["n"], "additionalProperties": False}
    grammar = compiler.compile(request(response_schema=whole), in_reasoning=False)
    assert accepted(compiler, tokenizer, grammar, f'{{"n": {text}}}') is expected
    assert accepted(compiler, tokenizer, grammar, f'{{"n": [{text}, {text}]}}') is (expected and schema == {})


def test_a_number_in_free_text_beside_calls_may_be_long(compiler, tokenizer):
    wanted = request(tools=(replace(BASH, strict=True),))
    grammar = compiler.compile(wanted, in_reasoning=False)
    assert accepted(compiler, tokenizer, grammar, "1" * 100)


def begun(text: str) -> tuple[Message, ...]:
    return (
        Message(role="user", parts=(TextPart(text="x"),)),
        Message(role="assistant", parts=(TextPart(text=text),)),
    )


@pytest.mark.parametrize(
    ("beginning", "rest", "expected"),
    [
        ("{", '"title": "x"}', True),
        ('{"title": "a "', "}", True),
        ('{"title": "a ', 'b"}', True),
        ("{", '"other": 1}', False),
        ("{", '{"title": "x"}', False),
        ("\n", '{"title": "x"}', True),
    ],
)
def test_an_answer_that_the_client_began_goes_on_in_its_form(compiler, tokenizer, beginning, rest, expected):
    for tools in ((), (BASH,)):
        wanted = request(response_schema=TITLE, tools=tools)
        grammar = compiler.compile(replace(wanted, messages=begun(beginning)), in_reasoning=False, continues=True)
        assert accepted(compiler, tokenizer, grammar, rest) is expected


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}]},
        {
            "allOf": [{"$ref": "#/$defs/a"}],
            "$defs": {"a": {"oneOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}},
        },
    ],
)
def test_what_refers_to_nothing_but_itself_is_not_enforced_and_said(compiler, tokenizer, schema):
    grammar = compiler.compile(request(response_schema=schema), in_reasoning=False)
    assert any("leads nowhere" in warning for warning in grammar.warnings)
    assert accepted(compiler, tokenizer, grammar, '{"a": 1}')


def test_a_reference_to_itself_beside_something_else_is_enforced(compiler, tokenizer):
    list_of = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]}
    grammar = compiler.compile(request(response_schema=list_of), in_reasoning=False)
    assert not grammar.warnings
    assert accepted(compiler, tokenizer, grammar, "[1, [2]]")
    assert not accepted(compiler, tokenizer, grammar, '["x"]')


@pytest.mark.parametrize("beginning", ["Here it is:", '{"title": 5', "```json\n{", '{"other"'])
def test_a_beginning_that_does_not_fit_the_form_is_refused(compiler, beginning):
    wanted = replace(request(response_schema=TITLE), messages=begun(beginning))
    with pytest.raises(InvalidRequestError, match="does not begin JSON that does"):
        compiler.compile(wanted, in_reasoning=False, continues=True)


def test_a_demanded_call_may_stand_behind_any_beginning(compiler, tokenizer):
    wanted = request(tools=(BASH,), tool_choice=ToolChoice(mode="any"))
    grammar = compiler.compile(replace(wanted, messages=begun("Well:")), in_reasoning=False, continues=True)
    assert accepted(compiler, tokenizer, grammar, CALL)


def test_every_construct_that_claude_code_sends_compiles_without_loss(compiler):
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "url": {"type": "string", "format": "uri"},
            "note": {"allOf": [{"type": "string", "pattern": "^[\\s\\S]{0,300}$"}]},
            "limit": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991, "default": 5},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "items": {"type": "array", "minItems": 1, "maxItems": 4, "items": {"type": "string", "maxLength": 12}},
        },
        "required": ["url"],
        "additionalProperties": False,
    }
    tool = ToolDefinition(name="T", parameters=schema)
    grammar = compiler.compile(request(tools=(tool,), tool_choice=ToolChoice(mode="any")), in_reasoning=False)
    assert grammar.text
    assert not grammar.warnings


def test_a_call_format_that_cannot_be_enforced_is_served_free_with_a_warning(tokenizer):
    text = (MODEL / "tokenizer.json").read_text()
    markers = Markers(call_start="<tool_call>", call_end="</tool_call>", parser="unheard_of")
    compiler = ConstraintCompiler(text, eos_token_ids=[2], vocabulary=tokenizer.get_vocab_size(), markers=markers)
    grammar = compiler.compile(request(tools=(BASH,), tool_choice=ToolChoice(mode="any")), in_reasoning=False)
    assert not grammar.text
    assert "unheard_of" in grammar.warnings[0]


def test_logits_wider_than_the_tokenizer_never_allow_the_padding(compiler):
    state = compiler.start(compiler.compile(request(response_schema={}), in_reasoning=False))
    allowed = state.allowed(4096)
    assert allowed.shape == (4096,)
    assert allowed.dtype == np.bool_
    assert not allowed[2048:].any()


@pytest.mark.parametrize(
    ("space", "expected"),
    [("", True), (" ", True), ("\n", True), ("\n        ", True), ("   ", False), ("\n\n", False)],
)
def test_white_space_between_json_tokens_is_bounded(compiler, tokenizer, space, expected):
    grammar = compiler.compile(request(response_schema={}), in_reasoning=False)
    assert accepted(compiler, tokenizer, grammar, f'{{"a":{space}1,{space}"b": {{}}{space}}}') is expected


def test_the_keyword_that_is_complained_about_is_dropped_and_no_other(compiler, tokenizer):
    schema = {
        "type": "object",
        "properties": {"pattern": {"type": "string", "pattern": "^a+$"}, "l": {"type": "array", "uniqueItems": True}},
        "required": ["pattern"],
        "additionalProperties": False,
    }
    grammar = compiler.compile(request(response_schema=schema), in_reasoning=False)
    assert grammar.warnings == ("`uniqueItems` is not enforced (`l`)",)
    assert accepted(compiler, tokenizer, grammar, '{"pattern": "aaa"}')
    assert not accepted(compiler, tokenizer, grammar, '{"pattern": "b"}')


def test_one_of_is_enforced_as_any_of_where_it_cannot_be_enforced(compiler, tokenizer):
    schema = {"type": "object", "properties": {"n": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]}}}
    grammar = compiler.compile(request(response_schema=schema | {"additionalProperties": False}), in_reasoning=False)
    assert grammar.warnings == ("`oneOf` is not enforced (`n`)",)
    assert accepted(compiler, tokenizer, grammar, '{"n": 1}')
    assert not accepted(compiler, tokenizer, grammar, '{"n": "x"}')


def test_answers_under_one_grammar_do_not_disturb_each_other(compiler, tokenizer):
    grammar = compiler.compile(request(response_schema={}), in_reasoning=False)
    begun, vocabulary = compiler.start(grammar), tokenizer.get_vocab_size()
    first = begun.allowed(vocabulary)
    for token in tokenizer.encode('{"a": 1}').ids:
        assert begun.accept(token)
    assert begun.is_complete
    fresh = compiler.start(grammar)
    assert not fresh.is_complete
    assert (fresh.allowed(vocabulary) == first).all()


def test_grammars_that_were_forgotten_are_compiled_again(compiler, tokenizer):
    def named(index):
        schema = {"type": "object", "properties": {f"p{index}": {"type": "integer"}}, "required": [f"p{index}"]}
        return compiler.compile(request(response_schema=schema | {"additionalProperties": False}), in_reasoning=False)

    grammars = [named(index) for index in range(40)]
    for index in (39, 0, 20):
        assert accepted(compiler, tokenizer, grammars[index], f'{{"p{index}": 1}}')
        assert not accepted(compiler, tokenizer, grammars[index], '{"q": 1}')


def test_a_name_that_spells_a_control_token_is_not_demanded_and_a_choice_that_does_is_not_enforced(compiler):
    """llguidance would force the token and then refuse it."""
    odd = replace(BASH, name="<tool_call>")
    alone = compiler.compile(request(tools=(odd,), tool_choice=ToolChoice(mode="any")), in_reasoning=False)
    assert not alone.text
    assert "its name spells a control token" in alone.warnings[0]
    beside = compiler.compile(request(tools=(odd, BASH), tool_choice=ToolChoice(mode="any")), in_reasoning=False)
    assert beside.text
    choice = {"type": "object", "properties": {"mark": {"enum": ["<|im_end|>", "x"]}}}
    chosen = compiler.compile(request(response_schema=choice), in_reasoning=False)
    assert chosen.text
    assert chosen.warnings == ("`enum` is not enforced (`mark`)",)


@pytest.mark.parametrize(
    ("form", "fits", "does_not"),
    [
        ({"response_pattern": "^[a-c]{2}/x$"}, "ab/x", "ad/x"),
        ({"response_pattern": "yes|no"}, "no", "nobody"),
        ({"response_pattern": "a\nb"}, "a\nb", "anb"),
        ({"response_grammar": 'start: "yes" | "no \\"way\\""'}, 'no "way"', "maybe"),
        ({"response_grammar": 'start: word ("," word)*\nword: /[a-z]+/'}, "one,two", "one,2"),
        ({"response_grammar": 'root ::= "a" digit*\ndigit ::= [0-9]'}, "a42", "b42"),
    ],
)
def test_a_form_in_the_clients_own_words_is_the_only_answer(compiler, tokenizer, form, fits, does_not):
    grammar = compiler.compile(request(**form), in_reasoning=False)
    assert accepted(compiler, tokenizer, grammar, fits)
    assert not accepted(compiler, tokenizer, grammar, does_not)


@pytest.mark.parametrize(
    "form",
    [{"response_pattern": "(oops"}, {"response_grammar": "start: ("}, {"response_grammar": "root ::= ("}],
)
def test_what_is_no_form_is_refused_with_the_reason(compiler, form):
    with pytest.raises(InvalidRequestError, match=r"regular expression|grammar"):
        compiler.compile(request(**form), in_reasoning=False)
