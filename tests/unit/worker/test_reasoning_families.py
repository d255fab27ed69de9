"""Reasoning of every family of models: found in the template, told apart from the answer, and put back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.events import Completion, Finished, Started, Usage, assemble
from shared.messages import Message, ReasoningPart, TextPart, ToolCallPart
from shared.request import GenerateRequest, ReasoningOptions, SamplingParams, ToolChoice, ToolDefinition
from tests.models.scripted_checkpoint import build_scripted, cue
from tests.models.templates import control_tokens, tokenizer_for
from tests.support.mlx_engine import Driver, message, request
from worker.answers.form import AnswerFormat, Beginning
from worker.answers.reasoning import Markup
from worker.answers.stream import AnswerStream
from worker.engines.mlx.model.ends import answer_ends
from worker.engines.tokens.constraints import Constraints
from worker.engines.tokens.output import output_format
from worker.engines.tokens.template_report import report_template
from worker.formats.families import ASKED
from worker.formats.readers import CallFormat
from worker.formats.reasoning import ENDS, REASONING_FAMILIES, UNSHOWN, Reasoning, shown_reasoning
from worker.prompt import PromptBuilder, find_reasoning

TOOLS = (ToolDefinition(name="Bash", parameters={"type": "object", "properties": {"command": {"type": "string"}}}),)
CALL = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>'
# Whose form another family has, too: tried through the engine by `make test-all`.
ALIKE = {
    "kimi_vl",
    "kimi_k3",
    "longcat",
    "minicpm",
    "exaone_deep",
    "granite32",
    "apertus",
    "think",
    "gemma4",
    "seed_oss",
}

FRESH = Beginning()

each_family = pytest.mark.parametrize("family", REASONING_FAMILIES.values(), ids=lambda family: family.name)


def thought(family: Reasoning, words: str) -> str:
    return f"{family.start}{family.frame}{words}{family.frame}{family.end}{family.gap}"


def wrapped(family: Reasoning, words: str) -> str:
    return f"{family.answer_start}{words}{family.answer_end}"


def form_of(family: Reasoning) -> AnswerFormat:
    markup = Markup(
        think_start=family.start,
        think_end=family.end,
        answer_start=family.answer_start,
        answer_end=family.answer_end,
        wraps_always=family.wraps_always,
        is_phrase=family.is_phrase,
        between=family.between,
    )
    return AnswerFormat(markup, CallFormat(ASKED))


def answer(
    family: Reasoning, pieces: Sequence[str], beginning: Beginning = FRESH, stop: tuple[str, ...] = ()
) -> list[Any]:
    """Its parts in short: text, reasoning as ("think", text), calls by name."""
    asked = GenerateRequest(id="r", model="m", messages=(), tools=TOOLS, sampling=SamplingParams(stop=stop))
    ids = map(str, itertools.count())
    stream = AnswerStream(form_of(family), asked, beginning, lambda: next(ids))
    events = [event for piece in pieces for event in stream.text(piece)]
    last, reason, _ = stream.finish("stop")
    finished = Finished(reason=reason, usage=Usage(), stop_sequence="")
    return list(short(assemble([Started(usage=Usage()), *events, *last, finished])))


def short(completion: Completion) -> Iterator[Any]:
    for part in completion.parts:
        match part:
            case TextPart(text=text):
                yield text
            case ReasoningPart(text=text):
                yield ("think", text)
            case ToolCallPart(name=name):
                yield [name]


def in_every_cut(family: Reasoning, text: str, *args: Any, **options: Any) -> list[Any]:
    """What all ways to cut the text in two, and into characters, come to."""
    whole = answer(family, [text], *args, **options)
    for pieces in (list(text), *([text[:at], text[at:]] for at in range(1, len(text)))):
        assert answer(family, pieces, *args, **options) == whole, pieces
    return whole


@each_family
def test_reasoning_and_answer_are_told_apart_in_every_cut(family: Reasoning) -> None:
    text = thought(family, "Hm,\n so.") + wrapped(family, "It is <b>4</b>.")
    assert in_every_cut(family, text) == [("think", "Hm,\n so."), "It is <b>4</b>."]
    opened = text.removeprefix(family.start)
    assert in_every_cut(family, opened, Beginning(in_reasoning=True)) == [("think", "Hm,\n so."), "It is <b>4</b>."]


@each_family
def test_an_answer_without_reasoning_is_text(family: Reasoning) -> None:
    words = "    x = 1\n\nIt is 4.\n"
    assert in_every_cut(family, words) == [words]
    if family.wraps_always:
        assert in_every_cut(family, wrapped(family, words)) == [words.rstrip()]
        assert in_every_cut(family, f"4.{family.answer_end}", Beginning(continues=True)) == ["4."]


@each_family
def test_a_call_behind_reasoning_and_one_inside_it_are_calls(family: Reasoning) -> None:
    assert in_every_cut(family, thought(family, "Look.") + CALL) == [("think", "Look."), ["Bash"]]
    assert in_every_cut(family, f"{family.start}{family.frame}Look.{CALL}") == [("think", "Look."), ["Bash"]]


@each_family
def test_reasoning_that_is_cut_stays_reasoning(family: Reasoning) -> None:
    assert in_every_cut(family, f"{family.start}{family.frame}Look, {family.end[:-1]}") == [
        ("think", f"Look, {family.end[:-1]}")
    ]


@each_family
def test_an_answer_may_mention_the_markers(family: Reasoning) -> None:
    marks = [mark for mark in (family.start, family.end, family.answer_start, family.answer_end) if mark]
    words = f"It reads {' and '.join(marks)} there."
    assert in_every_cut(family, words) == [words]
    assert in_every_cut(family, thought(family, "Hm.") + wrapped(family, words)) == [("think", "Hm."), words]


@each_family
def test_stop_sequences_count_in_the_answer_only(family: Reasoning) -> None:
    text = thought(family, "STOP?") + wrapped(family, "One. STOP two.")
    assert in_every_cut(family, text, stop=("STOP",)) == [("think", "STOP?"), "One. "]
    if family.answer_end:
        text = thought(family, "Hm.") + wrapped(family, "One. ST\n")
        assert in_every_cut(family, text, stop=("STOP",)) == [("think", "Hm."), "One. ST"]


@pytest.mark.parametrize("name", ["apriel", "granite32"])
def test_words_that_open_reasoning_do_so_at_the_beginning_only(name: str) -> None:
    family = REASONING_FAMILIES[name]
    words = f"As I said:\n{family.start}\nnone."
    assert in_every_cut(family, words) == [words]


def test_an_element_that_looks_like_a_wrapped_answer_is_kept_where_no_reasoning_went_before() -> None:
    words = "<response>\n  <ok/>\n</response>"
    assert in_every_cut(REASONING_FAMILIES["think_response"], words) == [words]


@pytest.mark.parametrize(
    ("source", "vocabulary", "known", "name"),
    [
        ("{%- set think_begin_token = '<seed:think>' %}{%- set t = '</seed:think>' %}", (), None, "seed_oss"),
        ("'<|inner_prefix|>' '<|inner_suffix|>'", (), None, "apertus"),
        ("<|START_THINKING|><|END_THINKING|> <|START_RESPONSE|>", (), None, "cohere"),
        ("'[THINK]' + block['thinking'] + '[/THINK]'", (), ("<think>", "</think>"), "mistral"),
        ("'<|channel>thought\\n' '\\n<channel|>'", (), None, "gemma4"),
        (
            "your thoughts between <think></think>, your response between <response></response>",
            (),
            None,
            "think_response",
        ),
        ("'<think>' '</think>' '<response>' ~ result ~ '</response>'", (), None, "think"),
        ("'<think>' '</think>\\n\\n<response>\\n'", (), None, "think_response"),
        ("'<think>' '</think>' '<answer>'", (), ("<think>", "</think>"), "think_answer"),
        ("'Here are my reasoning steps:\\n' '[BEGIN FINAL RESPONSE]'", (), None, "apriel"),
        ("'Here is my thought process:' 'Here is my response:'", (), None, "granite32"),
        ("'<think>\\n'", (), ("<think>", "</think>"), "think"),
        ("a section <think> and </think>", (), None, "think"),
        ("'<think>'", (), None, None),
        ("", ("◁think▷", "◁/think▷"), None, "kimi_vl"),
        ("", ("[THINK]", "[/THINK]"), None, "mistral"),
        ("", ("<|START_THINKING|>", "<|END_THINKING|>"), None, None),
        ("", (), ("<|think:start|>", "<|think:end|>"), "unnamed"),
        ("{{ messages }}", (), None, None),
    ],
)
def test_the_template_decides_and_then_the_vocabulary(
    source: str, vocabulary: tuple[str, ...], known: tuple[str, str] | None, name: str | None
) -> None:
    found = shown_reasoning(source, vocabulary, known)
    assert (found and found.name) == name


# Through the prompt and the engine.

_TEMPLATE = """
{%- for m in messages -%}
{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}CUE{%- endif -%}"""


def template_of(family: Reasoning, said: str = "") -> str:
    """A template that names the markers and does not show reasoning of earlier answers."""
    signs = (
        "{# "
        + " ".join((family.start, family.end, family.answer_start, family.answer_end))
        + " ".join(family.signs[:1])
        + " #}"
    )
    return _TEMPLATE.replace("CUE", f"{{{{ '{said}' }}}}" if said else "") + signs


def control_of(family: Reasoning) -> list[str]:
    """Those of the family's markers that are tokens in its models."""
    return [mark for mark in control_tokens(template_of(family)) if "im_" not in mark]


def conversation(*parts: Any) -> list[Message]:
    return [message("user", "go"), Message(role="assistant", parts=parts), message("user", "on")]


@each_family
def test_reasoning_of_an_earlier_answer_comes_back_where_it_was_generated(family: Reasoning) -> None:
    builder = PromptBuilder(tokenizer := tokenizer_for(template_of(family)), context_tokens=1 << 16)
    options = ReasoningOptions(enabled=True)
    parts = (ReasoningPart(text="Hm, so."), TextPart(text="It is 4."))
    first = builder.build(request("a", conversation()[:1], reasoning=options))
    second = builder.build(request("b", conversation(*parts), reasoning=options))
    assert second.tokens[: len(first.tokens)] == first.tokens
    shown = tokenizer.decode(second.tokens[len(first.tokens) :])
    assert shown.startswith(thought(family, "Hm, so.") + "It is 4.<|im_end|>")
    said = report_template(tokenizer, builder)
    assert said["reasoning"] == family.name
    assert "reasoning" not in said.get("lacks", "")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=name, marks=pytest.mark.slow if name in ALIKE else ())
        for name, family in REASONING_FAMILIES.items()
    ],
)
def test_what_a_model_of_the_family_says_reaches_the_events_apart(family: Reasoning, tmp_path: Path) -> None:
    text = thought(family, "Hm, so. 👋") + wrapped(family, "It is <b>4</b>.")
    template = template_of(family, cue("text"))
    driver = Driver(build_scripted(tmp_path / "model", {"text": text}, template, control=control_of(family)))
    assert output_format(driver.engine._model.tokenizer).reasoning == family
    (said,) = driver.run(request("r", [message("user", "go")], max_tokens=300))
    assert list(short(said)) == [("think", "Hm, so. 👋"), "It is <b>4</b>."]
    assert said.reason == "stop"


SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
JSON = '{"sum": 4}'


@each_family
def test_what_must_have_a_form_has_it_behind_reasoning_and_between_the_markers_of_an_answer(family: Reasoning) -> None:
    tokenizer = tokenizer_for(template_of(family))
    tokenizer.eos_token_ids = answer_ends(tokenizer)
    constraints = Constraints(tokenizer, vocab=len(tokenizer))

    def is_accepted(text: str, *, in_reasoning: bool = False, **options: Any) -> bool:
        grammar = constraints.compile(request("r", [], **options), in_reasoning=in_reasoning, continues=False)
        state = constraints.start(grammar)
        assert state is not None
        assert grammar is not None
        assert not grammar.warnings
        tokens = tokenizer.encode(text, add_special_tokens=False)
        return all(state.allowed(len(tokenizer))[token] and state.accept(token) for token in tokens) and (
            state.is_complete
        )

    for before in ("", thought(family, "Hm.")):
        assert is_accepted(before + wrapped(family, JSON), response_schema=SCHEMA)
        assert is_accepted(before + JSON, response_schema=SCHEMA)
        assert not is_accepted(before + wrapped(family, "four"), response_schema=SCHEMA)
        assert is_accepted(before + CALL, tools=TOOLS, tool_choice=ToolChoice(mode="any"))
    opened = thought(family, "Hm.").removeprefix(family.start)
    assert is_accepted(opened + wrapped(family, JSON), response_schema=SCHEMA, in_reasoning=True)
    strict = tuple(replace(tool, strict=True) for tool in TOOLS)
    for said in (wrapped(family, "It is 4."), CALL, f"Look.\n{CALL}"):
        assert is_accepted(thought(family, "Hm.") + said, tools=strict)


# What closes or opens where nothing is known of it, or where a call stands between.


def unshown(pieces: Sequence[str]) -> list[Any]:
    return answer(UNSHOWN, pieces)


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_reasoning_in_any_spelling_is_no_text_behind_a_call(end: str) -> None:
    for text, after in ((f"{CALL}\n{end}", []), (f"{CALL}\n{end}\n\nDone {end}.", [f"Done {end}."])):
        whole = answer(REASONING_FAMILIES["think"], [text])
        assert whole == [["Bash"], *after]
        assert unshown(list(text)) == whole


def test_reasoning_that_a_template_does_not_show_is_reasoning_where_an_answer_begins_with_it() -> None:
    for text, parts in (
        (f"<think>\nLook.\n{CALL}\n</think>", [("think", "Look."), ["Bash"]]),
        ("<think>Look.</think>\n\nIt is 4.", [("think", "Look."), "It is 4."]),
        ("It says\n<think> and </think>.", ["It says\n<think> and </think>."]),
    ):
        assert unshown([text]) == parts
        assert unshown(list(text)) == parts


@each_family
def test_the_end_of_reasoning_that_a_call_has_interrupted_is_no_text(family: Reasoning) -> None:
    text = f"{family.start}{family.frame}Look.{CALL}\nSo be it.\n{family.end}\nDone."
    assert in_every_cut(family, text) == [("think", "Look."), ["Bash"], "So be it.\n\nDone."]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("'</think>\\n' }}{{ '<response>\\n' ~ m.content ~ '\\n</response>\\n'", "think_response"),
        ("'</think>' }}{{ m.content ~ '<response>' ~ m.content ~ '</response>'", "think"),
    ],
)
def test_markers_around_an_answer_are_known_from_where_the_template_writes_it(written: str, name: str) -> None:
    source = (
        "{%- for m in messages -%}{%- if m.role == 'assistant' -%}{{ '<|im_start|>assistant\\n' }}"
        "{{ '<think>\\n' ~ (m.reasoning_content or '') ~ " + written + " }}{%- else -%}"
        "{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content }}{%- endif -%}{{ '<|im_end|>\\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n<think>\\n' }}{%- endif -%}"
    )
    found = find_reasoning(tokenizer_for(source))
    assert found is not None
    assert found.name == name


SOLAR_CALL = (
    "<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>Bash"
    '<|tool_call:args|>{"command": "ls"}<|tool_call:end|><|calls|>'
)
SOLAR_TEMPLATE = """
{%- if tools -%}{{ '<|begin|>system<|content|>' ~ tools | tojson ~ '<|end|>' }}{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- if m.reasoning_content -%}{{ '<|begin|>assistant<|think|>' ~ m.reasoning_content ~ '<|end|>' }}{%- endif -%}
{%- if m.content -%}{{ '<|begin|>assistant<|content|>' ~ m.content ~ LAST }}{%- endif -%}
{%- for call in m.tool_calls or [] -%}
{{ '<|begin|>assistant<|tool_calls|><|tool_call:begin|>' ~ call.id ~ '<|tool_call:name|>' ~ call.function.name }}
{{- '<|tool_call:args|>' ~ call.function.arguments | tojson ~ '<|tool_call:end|><|calls|>' }}
{%- endfor -%}
{%- else -%}{{ '<|begin|>' ~ m.role ~ '<|content|>' ~ m.content ~ '<|end|>' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|begin|>assistant' }}{{ 'CUE' }}{%- endif -%}"""
SOLAR_TOKENS = ("<|begin|>", "<|end|>", "<|think|>", "<|content|>", "<|tool_calls|>", "<|calls|>", "<|flush|>")


@pytest.mark.parametrize("last", ["<|flush|>", "<|end|>"])
@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("<|think|>Hm.<|end|><|begin|>assistant<|content|>It is 4.", [("think", "Hm."), "It is 4."]),
        (f"<|think|>Hm.<|end|><|begin|>assistant{SOLAR_CALL}", [("think", "Hm."), ["Bash"]]),
    ],
)
def test_a_token_that_ends_reasoning_and_answers_alike_ends_reasoning_first(
    last: str, said: str, parts: list[Any], tmp_path: Path
) -> None:
    template = SOLAR_TEMPLATE.replace("CUE", cue("text")).replace("LAST", f"'{last}'")
    folder = build_scripted(tmp_path / "model", {"text": said}, template, control=SOLAR_TOKENS, end=last)
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ends = [token["id"] for token in tokens if token["content"] in ("<|end|>", last)]
    for name in ("config.json", "generation_config.json"):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": ends}))
    driver = Driver(folder)
    (made,) = driver.run(request("r", [message("user", "go")], max_tokens=200, tools=TOOLS))
    assert list(short(made)) == parts
    assert made.reason == ("tool_calls" if SOLAR_CALL in said else "stop")
