"""What chat templates of real models do besides writing messages one after the other."""

from __future__ import annotations

import pytest

from tests.models.templates import call, conversation, prompts, request_of, result, said, text, tokenizer_for
from worker.engines.tokens.template_report import report_template
from worker.prompt import PromptBuilder
from worker.prompt.growth import NotLocalError, grown
from worker.prompt.markers import Markers
from worker.prompt.sequences import common_length
from worker.prompt.template import Template
from worker.prompt.tool_schemas import complete, simplified

# In the style of DeepSeek V3.2: reasoning since the user last spoke, elsewhere its end marker alone.
CLOSED = """
{%- if thinking is not defined -%}{%- set thinking = false -%}{%- endif -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {%- if loop.index0 > ns.last and thinking -%}{{ '<|A|><think>' + (m.reasoning_content or '') + '</think>' }}
    {%- else -%}{{ '<|A|></think>' }}{%- endif -%}
{{ m.content + '</s>' }}
  {%- else -%}{{ '<|U|>' + m.content }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|A|><think>' if thinking else '<|A|><think></think>' }}{%- endif -%}"""


def shown(template: str, thinking: bool | None, *, reasoning: bool) -> str:
    tokenizer = tokenizer_for(template)
    messages = conversation(reasoning=reasoning)[0]
    kept = [messages[1], messages[-4], messages[-3], messages[-2], messages[-1]]
    prompt = PromptBuilder(tokenizer, context_tokens=1 << 20).build(request_of(kept, thinking, tools=()))
    return str(tokenizer.decode(prompt.tokens))


@pytest.mark.parametrize("thinking", [None, False])
def test_reasoning_is_put_back_where_a_template_writes_its_end_marker_alone(thinking: bool | None) -> None:
    assert shown(CLOSED, thinking, reasoning=True) == (
        "<|U|>Fix the build.<|A|><think>All is well.</think>It builds.</s><|U|>Thanks. And the tests?"
        "<|A|><think>Nothing to run.</think>There are none.</s><|U|>Then write one.<|A|><think></think>"
    )


def test_an_answer_without_reasoning_stands_behind_the_header_that_closed_it() -> None:
    assert shown(CLOSED, None, reasoning=False) == (
        "<|U|>Fix the build.<|A|><think></think>It builds.</s><|U|>Thanks. And the tests?"
        "<|A|><think></think>There are none.</s><|U|>Then write one.<|A|><think></think>"
    )


def test_a_common_beginning_ends_before_a_marker_that_differs() -> None:
    markers = Markers(("<|a|>", "[INST]"))
    assert markers.common("x<|a|><think>", "x<|a|></think>") == len("x<|a|>")
    assert markers.common("x[INST] y", "x[INST") == len("x")
    assert markers.common("same", "same and more") == len("same")
    assert markers.common_ending("}<|b|><|a|>", "]<|c|><|a|>") == "<|a|>"


def test_what_is_added_begins_behind_the_end_that_was_written_while_a_message_was_the_last() -> None:
    markers = Markers(("<end>", "<user>"))
    assert grown("old #</r><end>", "new #</r>\n<end><user>hi<end>", "#", markers) == "<user>hi<end>"
    assert grown("old #</r><gone>", "new #</r><user>hi<end>", "#", markers) == "<user>hi<end>"
    for long in ("new <user>hi<end>", "# and # <user>"):
        with pytest.raises(NotLocalError):
            grown("old #<end>", long, "#", markers)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{%- for tool in tools -%}{{ tool.name }}{%- endfor -%}none", "none"),
        ("{{ 'some' if tools is defined and tools | length else 'none' }}", "none"),
        ("{{ tools is none }}", "True"),
    ],
)
def test_a_template_is_told_that_there_are_no_tools_in_a_way_that_it_takes(source: str, expected: str) -> None:
    template = Template(tokenizer_for(source))
    assert template.render([{"role": "user", "content": "."}], (), {}, header=True) == expected


def test_a_text_that_a_template_shows_behind_a_call_stands_before_it_as_it_was_generated() -> None:
    source = """
{%- for m in messages -%}
{{ '<|' + m.role + '|>' }}
{%- for call in m.tool_calls or [] -%}
{{ '<|call>' + call.function.name + call.function.arguments | tojson + '<call|>' }}
{%- endfor -%}
{{ m.content + '<|end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"""
    tokenizer = tokenizer_for(source)
    messages = [
        said("user", text("a")),
        said("assistant", text("I look."), call(0, "Bash", command="ls")),
        result(0, "b"),
    ]
    prompt = PromptBuilder(tokenizer, context_tokens=1 << 20).build(request_of(messages, None))
    assert tokenizer.decode(prompt.tokens).endswith(
        '<|assistant|>I look.<|call>Bash{"command": "ls"}<call|><|end|><|tool|>b<|end|><|assistant|>'
    )


def test_many_calls_before_a_window_cost_no_rendering_of_their_arguments() -> None:
    """A template that numbers calls is shown how many went before, not what they said."""
    from tests.unit.worker.prompt_models import TEMPLATES

    tokenizer = tokenizer_for((TEMPLATES / "command.jinja").read_text())
    builder = PromptBuilder(tokenizer, context_tokens=1 << 20)
    assert builder.facts.mode == "counted window"
    built = prompts(builder, reasoning=False, thinking=None)
    last = tokenizer.decode(built[-1].tokens)
    assert [f'"tool_call_id": "{number}"' in last for number in range(5)] == [True] * 4 + [False]


def test_schemas_have_everything_in_its_place() -> None:
    assert complete({}) == {"type": "object", "properties": {}}
    assert complete({"type": "object", "required": None}) == {"type": "object", "properties": {}}
    nested = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}}}, "required": ["a"]}
    assert complete(nested)["properties"]["a"]["items"] == {"type": "object", "properties": {}}
    whole = {"type": "object", "properties": {"a": {"type": ["string", "null"], "default": 1}}, "required": []}
    assert complete(whole) == whole


def test_simplified_schemas_have_one_type_each() -> None:
    schema = {
        "properties": {
            "a": {"type": ["null", "integer"], "enum": [1, 2], "default": 1},
            "b": {"oneOf": [{"type": "string"}, {"type": "array"}], "description": "d"},
            "c": {"type": ["array", "string"], "items": {"$ref": "#/x"}},
            "d": True,
        }
    }
    properties = simplified(schema)["properties"]
    assert properties["a"] == {"type": "integer"}
    assert properties["b"] == {"type": "string", "description": "d"}
    assert properties["c"]["type"] == "array"
    assert properties["d"] == {"type": "string"}


@pytest.mark.parametrize(
    ("one", "other", "expected"), [("", "", 0), ("ab", "ac", 1), ([1, 2, 3], (1, 2), 2), ("x" * 999, "x" * 1000, 999)]
)
def test_common_beginnings_of_texts_and_of_token_lists(one: object, other: object, expected: int) -> None:
    assert common_length(one, other) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("template", ["", None], ids=["empty", "missing"])
def test_a_model_without_a_template_gets_messages_as_plain_text_and_that_is_said(template: str | None) -> None:
    tokenizer = tokenizer_for("{{ messages }}")
    tokenizer._tokenizer.chat_template = template
    tokenizer.has_chat_template = template is not None
    builder = PromptBuilder(tokenizer, context_tokens=4096)
    assert builder.is_plain
    assert "plain text" in report_template(tokenizer, builder)["missing"]
    built = Template(tokenizer).render([{"role": "user", "content": "Hello"}], (), {}, header=True)
    assert built == "User: Hello\n\nAssistant:"
