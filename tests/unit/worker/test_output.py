"""Generated tokens become events: text, reasoning, tool calls and stop sequences, however the tokens cut the text."""

from __future__ import annotations

import importlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper, load

from shared.events import (
    Completion,
    Event,
    EventOrder,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallFinished,
    ToolCallStarted,
    Usage,
    assemble,
)
from shared.messages import ReasoningPart, TextPart, ToolCallPart
from shared.request import GenerateRequest, SamplingParams, ToolChoice, ToolDefinition
from tests.support.examples import examples
from tests.unit.worker.prompt_models import MODEL, tokenizer_of
from worker.engines.tokens.output import OutputStream
from worker.prompt import Prompt

TOOLS = (
    ToolDefinition(
        name="Bash", parameters={"type": "object", "properties": {"command": {"type": "string"}, "timeout": True}}
    ),
    ToolDefinition(name="Read", parameters={"type": "object", "properties": {"path": {"type": "string"}}}),
)
CALL = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerWrapper:
    return load(MODEL)


def with_family(tokenizer: TokenizerWrapper, family: str, **options: Any) -> TokenizerWrapper:
    """The same vocabulary for a model that writes calls in another way."""
    module = importlib.import_module(f"mlx_lm.tool_parsers.{family}")
    return TokenizerWrapper(
        tokenizer._tokenizer,
        BPEStreamingDetokenizer,
        tool_parser=module.parse_tool_call,
        tool_call_start=module.tool_call_start,
        tool_call_end=module.tool_call_end,
        **options,
    )


def request_of(**options: Any) -> GenerateRequest:
    options.setdefault("tools", TOOLS)
    return GenerateRequest(id="r", model="m", messages=options.pop("messages", ()), **options)


def prompt_of(*, in_reasoning: bool = False, continues: bool = False) -> Prompt:
    return Prompt(tokens=[], boundaries=(), in_reasoning=in_reasoning, continues=continues)


def events_of(
    tokenizer: TokenizerWrapper,
    pieces: Sequence[str],
    request: GenerateRequest | None = None,
    prompt: Prompt | None = None,
    reason: Any = "stop",
) -> tuple[list[Event], Finished]:
    """Feeds the tokens of each piece, and checks that the events come in a legal order."""
    ids = itertools.count(1)
    stream = OutputStream(tokenizer, request or request_of(), prompt or prompt_of(), lambda: f"toolu_{next(ids)}")
    events: list[Event] = []
    for piece in pieces:
        for token in tokenizer.encode(piece, add_special_tokens=False):
            events += stream.feed(token)
            if stream.is_over:
                break
    last, finish_reason, stop = stream.finish(reason)
    events += last
    order = EventOrder()
    for event in [Started(usage=Usage()), *events]:
        order.feed(event)
    return events, Finished(reason=finish_reason, usage=Usage(), stop_sequence=stop)


def answer(tokenizer: TokenizerWrapper, text: str | Sequence[str], *args: Any, **options: Any) -> Completion:
    pieces = [text] if isinstance(text, str) else text
    events, finished = events_of(tokenizer, pieces, *args, **options)
    return assemble([Started(usage=Usage()), *events, finished])


def said(completion: Completion) -> list[Any]:
    """The parts in short: text as it is, reasoning as ("think", text), calls as (name, arguments)."""
    short: list[Any] = []
    for part in completion.parts:
        match part:
            case TextPart(text=text):
                short.append(text)
            case ReasoningPart(text=text):
                short.append(("think", text))
            case ToolCallPart(name=name, arguments=arguments):
                short.append((name, arguments))
    return short


LS = ("Bash", '{"command": "ls"}')


def test_plain_text_is_passed_on(tokenizer: TokenizerWrapper) -> None:
    completion = answer(tokenizer, "Hello, wörld 👋 <b>x</b>\n")
    assert said(completion) == ["Hello, wörld 👋 <b>x</b>\n"]
    assert completion.reason == "stop"


def test_reasoning_and_text_are_kept_apart_without_the_whitespace_between_them(tokenizer: TokenizerWrapper) -> None:
    assert said(answer(tokenizer, "<think>\nhm, \n so\n</think>\n\nYes.")) == [("think", "hm, \n so"), "Yes."]


def test_an_answer_that_starts_inside_reasoning(tokenizer: TokenizerWrapper) -> None:
    completion = answer(tokenizer, "\nhm\n</think>\n\nYes.", prompt=prompt_of(in_reasoning=True))
    assert said(completion) == [("think", "hm"), "Yes."]


def test_a_second_opening_of_reasoning_that_the_prompt_opened_is_dropped(tokenizer: TokenizerWrapper) -> None:
    completion = answer(tokenizer, "<think>\nhm\n</think>\n\nYes.", prompt=prompt_of(in_reasoning=True))
    assert said(completion) == [("think", "hm"), "Yes."]


def test_a_closing_marker_without_reasoning_is_dropped_at_the_start_only(tokenizer: TokenizerWrapper) -> None:
    assert said(answer(tokenizer, "\n</think>\n\nYes.")) == ["Yes."]
    assert said(answer(tokenizer, "End it with </think> please")) == ["End it with </think> please"]


def test_prose_may_mention_the_reasoning_marker(tokenizer: TokenizerWrapper) -> None:
    assert said(answer(tokenizer, "Write `<think>` first.")) == ["Write `<think>` first."]


def test_reasoning_between_texts_keeps_its_place(tokenizer: TokenizerWrapper) -> None:
    completion = answer(tokenizer, "One.\n<think>hm</think>\nTwo.")
    assert said(completion) == ["One.", ("think", "hm"), "Two."]


def test_text_and_calls_keep_their_places_and_calls_get_unique_ids(tokenizer: TokenizerWrapper) -> None:
    completion = answer(tokenizer, f"First.\n\n{CALL}\n{CALL}\n\nThen.\n")
    assert said(completion) == ["First.", LS, LS, "Then.\n"]
    assert [part.id for part in completion.parts if isinstance(part, ToolCallPart)] == ["toolu_1", "toolu_2"]
    assert completion.reason == "tool_calls"


def test_a_call_inside_reasoning_ends_the_reasoning(tokenizer: TokenizerWrapper) -> None:
    completion = answer(tokenizer, f"I should look.\n{CALL}\n</think>", prompt=prompt_of(in_reasoning=True))
    assert said(completion) == [("think", "I should look."), LS]
    assert completion.reason == "tool_calls"


def test_what_is_no_call_inside_reasoning_stays_reasoning(tokenizer: TokenizerWrapper) -> None:
    text = "A <tool_call> holds JSON.\n</think>\nYes."
    completion = answer(tokenizer, text, prompt=prompt_of(in_reasoning=True))
    assert said(completion) == [("think", "A <tool_call> holds JSON."), "Yes."]


def test_what_is_no_call_is_text_with_its_markers(tokenizer: TokenizerWrapper) -> None:
    completion = answer(tokenizer, "See <tool_call>this</tool_call> here.")
    assert said(completion) == ["See <tool_call>this</tool_call> here."]
    assert completion.reason == "stop"


def test_without_tools_call_markup_is_text(tokenizer: TokenizerWrapper) -> None:
    assert said(answer(tokenizer, CALL, request_of(tools=()))) == [CALL]


@pytest.mark.parametrize("cut", [list, lambda text: [text]], ids=["characters", "whole"])
def test_with_tool_choice_none_a_call_is_cut_from_the_answer(
    tokenizer: TokenizerWrapper, cut: Callable[[str], list[str]]
) -> None:
    forbidden = request_of(tool_choice=ToolChoice(mode="none"))
    bare = CALL.removeprefix("<tool_call>").lstrip()  # as a model goes on that may not begin one
    for text, shown in [
        (CALL, []),
        (bare, []),
        (f"So.\n{CALL}\nDone.", ["So.\n\nDone."]),
        (f"So.\n{bare}", ["So.\n"]),
        ("<tool_call> is a tag.", None),
        ('{"name": "Ann", "arguments": {}}', None),
    ]:
        completion = answer(tokenizer, cut(text), forbidden)
        assert said(completion) == ([text] if shown is None else shown)
        assert completion.reason == "stop"


def test_the_indentation_of_the_first_line_is_kept_and_blank_lines_before_it_are_not(
    tokenizer: TokenizerWrapper,
) -> None:
    assert said(answer(tokenizer, list("    x = 1\n\n"))) == ["    x = 1\n\n"]
    assert said(answer(tokenizer, list("\n \n    x = 1"))) == ["    x = 1"]
    assert said(answer(tokenizer, list("<think>\n  hm</think>\n\n  x"))) == [("think", "hm"), "  x"]
    assert said(answer(tokenizer, list("<think>hm</think> x"))) == [("think", "hm"), "x"]
    assert said(answer(tokenizer, list(f"   {CALL}"))) == [LS]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("cut_at", range(30, len(CALL), 9))
def test_a_call_that_is_cut_by_max_tokens_ends_the_answer_for_its_length(
    tokenizer: TokenizerWrapper, parallel: bool, cut_at: int
) -> None:
    request = request_of(tool_choice=ToolChoice(parallel=parallel))
    completion = answer(tokenizer, list(CALL[:cut_at]), request, reason="length")
    assert completion.reason == "length"


def test_a_name_in_the_wrong_case_becomes_the_tools_own(tokenizer: TokenizerWrapper) -> None:
    assert said(answer(tokenizer, CALL.replace("Bash", "bash"))) == [LS]
    two = (*TOOLS, ToolDefinition(name="BASH"))
    assert said(answer(tokenizer, CALL.replace("Bash", "bash"), request_of(tools=two)))[0][0] == "bash"
    assert said(answer(tokenizer, CALL.replace("Bash", "Nope")))[0][0] == "Nope"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r'{"command": "grep \d+ a.txt"}', {"command": r"grep \d+ a.txt"}),
        (r'{"command": "it\'s"}', {"command": "it's"}),
        ('{"command": "a\n\tb"}', {"command": "a\n\tb"}),
        ('{"command": "echo "hi" there"}', {"command": 'echo "hi" there'}),
        ("{'command': 'ls', 'timeout': None}", {"command": "ls", "timeout": None}),
        ('{command: "ls", timeout: True,}', {"command": "ls", "timeout": True}),
        ('{"command": "ls", "more": [1, 2', {"command": "ls", "more": [1, 2]}),
        (r'"{\"command\": \"ls\"}"', {"command": "ls"}),
        ("null", {}),
    ],
)
def test_slips_with_one_reading_are_repaired(tokenizer: TokenizerWrapper, written: str, meant: Any) -> None:
    text = f'<tool_call>\n{{"name": "Bash", "arguments": {written}}}\n</tool_call>'
    [(name, arguments)] = said(answer(tokenizer, text))
    assert name == "Bash"
    assert json.loads(arguments) == meant


@pytest.mark.parametrize("written", ['{"command": ls -la}', '{"command": "ls}', '{"command" "ls"}', "[1]"])
def test_a_call_with_unreadable_arguments_reaches_the_client_marked_invalid(
    tokenizer: TokenizerWrapper, written: str
) -> None:
    text = f'<tool_call>\n{{"name": "Bash", "arguments": {written}}}\n</tool_call>'
    events, finished = events_of(tokenizer, [text])
    assert [e.name for e in events if isinstance(e, ToolCallStarted)] == ["Bash"]
    assert [e.is_valid for e in events if isinstance(e, ToolCallFinished)] == [False]
    assert finished.reason == "tool_calls"


def test_a_call_cut_at_the_token_limit_is_invalid_and_the_reason_stays_length(tokenizer: TokenizerWrapper) -> None:
    text = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls'
    events, finished = events_of(tokenizer, [text], reason="length")
    assert said(assemble([Started(usage=Usage()), *events, finished])) == [("Bash", '{"command": "ls')]
    assert [e.is_valid for e in events if isinstance(e, ToolCallFinished)] == [False]
    assert finished.reason == "length"


def test_an_end_marker_inside_a_string_belongs_to_the_string(tokenizer: TokenizerWrapper) -> None:
    command = "echo '</tool_call>' and <tool_call> too"
    text = f'<tool_call>\n{{"name": "Bash", "arguments": {json.dumps({"command": command})}}}\n</tool_call>\nDone.'
    [(_, arguments), rest] = said(answer(tokenizer, text))
    assert json.loads(arguments) == {"command": command}
    assert rest == "Done."


def test_a_call_without_its_closing_quote_does_not_swallow_the_next_call(tokenizer: TokenizerWrapper) -> None:
    text = f'<tool_call>\n{{"name": "Bash", "arguments": {{"command": "ls}}}}\n</tool_call>\n{CALL}'
    events, _ = events_of(tokenizer, [text])
    assert [e.is_valid for e in events if isinstance(e, ToolCallFinished)] == [False, True]


def test_a_call_without_its_markers_is_a_call_if_it_names_a_tool(tokenizer: TokenizerWrapper) -> None:
    assert said(answer(tokenizer, '{"name": "Bash", "parameters": {"command": "ls"}}')) == [LS]
    for text in ['{"name": "Alice", "arguments": {}}', '{"title": "x"}', '{"name": "Bash", "description": "runs"}']:
        assert said(answer(tokenizer, text)) == [text]


@pytest.mark.parametrize("text", ['[Bash(command="ls")]', '[{"name": "Bash", "arguments": {"command": "ls"}}]'])
@pytest.mark.parametrize("cut", [list, lambda text: [text]], ids=["characters", "whole"])
def test_a_list_of_calls_without_markers_is_read_if_it_names_a_tool(
    tokenizer: TokenizerWrapper, text: str, cut: Callable[[str], list[str]]
) -> None:
    for model in (tokenizer, tokenizer_of("llama3")):
        assert said(answer(model, cut(text))) == [LS]
        for other in (text.replace("Bash", "Alice"), "[1, 2]", "[see](below)", "["):
            assert said(answer(model, cut(other))) == [other]
    started = f"<|python_start|>{text}<|python_end|>"
    assert said(answer(tokenizer_of("llama3"), cut(started))) == [LS]


def test_a_call_after_a_python_tag_is_read_for_models_without_a_format_of_their_own() -> None:
    llama = tokenizer_of("llama3")
    assert said(answer(llama, '<|python_tag|>{"name": "Bash", "parameters": {"command": "ls"}}')) == [LS]
    assert said(answer(llama, "<|python_tag|>print(1)")) == ["<|python_tag|>print(1)"]


def test_json_that_the_request_asked_for_is_never_a_call(tokenizer: TokenizerWrapper) -> None:
    text = '{"name": "Bash", "arguments": {"command": "ls"}}'
    assert said(answer(tokenizer, text, request_of(response_schema={}))) == [text]


def test_a_function_tag_without_its_outer_marker_is_a_call(tokenizer: TokenizerWrapper) -> None:
    coder = with_family(tokenizer, "qwen3_coder")
    body = "<function=Bash>\n<parameter=command>\nls\n</parameter>\n</function>"
    for text in (f"Look.\n\n{body}", f"Look.\n{body}\n</tool_call>", f"Look.\n<tool_call>\n{body}\n</tool_call>"):
        assert said(answer(coder, text)) == ["Look.", LS]
    assert said(answer(coder, f"Write {body}")) == [f"Write {body}"]
    unknown = body.replace("Bash", "Nope")
    assert said(answer(coder, unknown)) == [unknown]


def test_a_neighbours_form_inside_the_same_marker_is_read(tokenizer: TokenizerWrapper) -> None:
    body = "<function=Bash>\n<parameter=command>\nls\n</parameter>\n</function>"
    assert said(answer(tokenizer, f"<tool_call>\n{body}\n</tool_call>")) == [LS]
    assert said(answer(with_family(tokenizer, "qwen3_coder"), CALL)) == [LS]


@pytest.mark.parametrize("family", ["mistral", "glm47", "pythonic", "minimax_m2"])
def test_the_form_that_models_are_asked_for_in_words_is_read_beside_their_own(
    tokenizer: TokenizerWrapper, family: str
) -> None:
    other = with_family(tokenizer, family)
    assert said(answer(other, f"So.\n{CALL}\n{CALL}")) == ["So.", LS, LS]
    fenced = '```json\n{"name": "Bash", "arguments": {"command": "ls"}}\n```'
    assert said(answer(tokenizer, f"So.\n\n{fenced}")) == ["So.", LS]
    for text in (fenced.replace("Bash", "Nope"), "```json\n[1, 2]\n```\n", "Write ```json`."):
        assert said(answer(tokenizer, text)) == [text]


def test_ids_are_ours_because_models_repeat_theirs(tokenizer: TokenizerWrapper) -> None:
    text = '[TOOL_CALLS]Bash[CALL_ID]abcdef123[ARGS]{"command": "ls"}' * 2
    calls = answer(with_family(tokenizer, "mistral"), text).parts
    assert [call.id for call in calls if isinstance(call, ToolCallPart)] == ["toolu_1", "toolu_2"]


def test_a_header_format_routes_its_messages(tokenizer: TokenizerWrapper) -> None:
    from mlx_lm.chat_templates.muse_spark import RESPONSE_FORMAT

    muse = with_family(tokenizer, "muse_spark", response_format=RESPONSE_FORMAT)
    text = (
        "to=self<|message|>hm<|eom|><|start|>assistant to=Bash<|message|><atem:function_calls>\n"
        '<atem:invoke name="Bash">\n<atem:parameter name="command">ls</atem:parameter>\n</atem:invoke>\n'
        "</atem:function_calls><|eom|><|start|>assistant to=user<|message|>Done.<|eot|>"
    )
    assert said(answer(muse, text)) == [("think", "hm"), LS, "Done."]
    assert said(answer(muse, "no header at all")) == ["no header at all"]


@pytest.mark.parametrize(
    ("text", "stop", "shown", "matched"),
    [
        ("one two three", ("two",), "one ", "two"),
        ("one two three", ("e t", "two"), "on", "e t"),
        ("abcd", ("abcd", "bc"), "a", "bc"),
        ("a\n\nb", ("\n\n",), "a", "\n\n"),
        ("\n\na", ("\n",), "a", ""),
        ("one tw", ("two",), "one tw", ""),
        ("END", ("END",), "", "END"),
    ],
)
def test_stop_sequences_end_the_text_before_them(
    tokenizer: TokenizerWrapper, text: str, stop: tuple[str, ...], shown: str, matched: str
) -> None:
    completion = answer(tokenizer, list(text), request_of(sampling=SamplingParams(stop=stop)))
    assert "".join(said(completion)) == shown
    assert completion.stop_sequence == matched
    assert completion.reason == ("stop_sequence" if matched else "stop")


def test_stop_sequences_do_not_end_reasoning_or_arguments(tokenizer: TokenizerWrapper) -> None:
    request = request_of(sampling=SamplingParams(stop=("ls",)))
    completion = answer(tokenizer, f"<think>ls</think>Go.\n{CALL}\nNow ls ends.", request)
    assert said(completion) == [("think", "ls"), "Go.", LS, "Now "]
    assert completion.stop_sequence == "ls"


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("json_tools", f"Go.\n{CALL}"),
        ("json_tools", f"Go.\n{CALL}\n{CALL}\n"),
        ("json_tools", f"Go.\n{CALL}\nAnd now?"),
        ("pythonic", 'Go.<|tool_call_start|>[Bash(command="ls"), Read(path="x")]<|tool_call_end|>'),
    ],
)
@pytest.mark.parametrize("cut", [list, lambda text: [text]], ids=["characters", "whole"])
def test_an_answer_that_may_call_once_ends_with_its_call(
    tokenizer: TokenizerWrapper, family: str, text: str, cut: Callable[[str], list[str]]
) -> None:
    request = request_of(tool_choice=ToolChoice(parallel=False))
    completion = answer(with_family(tokenizer, family), cut(text), request)
    assert said(completion) == ["Go.", LS]
    assert completion.reason == "tool_calls"


def test_a_continued_message_keeps_its_leading_whitespace(tokenizer: TokenizerWrapper) -> None:
    assert said(answer(tokenizer, "  and on", prompt=prompt_of(continues=True))) == ["  and on"]


def test_tokens_that_end_the_answer_are_not_text(tokenizer: TokenizerWrapper) -> None:
    assert said(answer(tokenizer, "Bye.<|im_end|>")) == ["Bye."]


def test_logprobs_travel_with_the_text_they_made(tokenizer: TokenizerWrapper) -> None:
    stream = OutputStream(tokenizer, request_of(), prompt_of(in_reasoning=True), lambda: "x")
    events: list[Event] = []
    for index, token in enumerate(tokenizer.encode("hm</think>\n\nYes, of course.", add_special_tokens=False)):
        events += stream.feed(token, TokenLogprob(token=tokenizer.decode([token]), logprob=-float(index)))
    events += stream.finish("stop")[0]
    assert not any(e.text for e in events if isinstance(e, ReasoningDelta) and "Yes" in e.text)
    logprobs = [logprob for e in events if isinstance(e, TextDelta) for logprob in e.logprobs]
    assert "".join(logprob.token for logprob in logprobs).strip() == "Yes, of course."


snippets = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            CALL,
            CALL.replace("Bash", "bash"),
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            '{"name": "Bash", "arguments": {"command": "ls"}}',
            '{"name": "Bash", "arguments": {"command": "ls',
            "<function=Bash>\n<parameter=command>\nls\n</parameter>\n</function>",
            "\n",
            "\n\n",
            " ",
            "STOP",
            "ST",
            "<",
            "{",
            "héllo 👩‍👩‍👧",
        ]
    ),
)


@examples(30, thorough=240)
@given(
    parts=st.lists(snippets, max_size=8),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    stop=st.sampled_from([(), ("STOP",), ("\n\n", "T\n"), (" ",)]),
    in_reasoning=st.booleans(),
    reason=st.sampled_from(["stop", "length"]),
    has_tools=st.booleans(),
    family=st.sampled_from(["json_tools", "qwen3_coder"]),
)
def test_the_answer_does_not_depend_on_how_tokens_cut_the_text(
    parts: list[str],
    cuts: list[int],
    stop: tuple[str, ...],
    in_reasoning: bool,
    reason: str,
    has_tools: bool,
    family: str,
) -> None:
    tokenizer = with_family(_loaded(), family)
    text = "".join(parts).replace("\r", "")
    request = request_of(tools=TOOLS if has_tools else (), sampling=SamplingParams(stop=stop))
    pieces, at = [], 0
    for size in itertools.cycle(cuts):
        if at >= len(text):
            break
        pieces.append(text[at : at + size])
        at += size
    outcomes = [
        answer(tokenizer, cut, request, prompt_of(in_reasoning=in_reasoning), reason)
        for cut in ([text], pieces, list(text))
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    shown = "".join(part for part in said(outcomes[0]) if isinstance(part, str))
    assert not any(sequence in shown for sequence in stop)


_TOKENIZERS: list[TokenizerWrapper] = []


def _loaded() -> TokenizerWrapper:
    if not _TOKENIZERS:
        _TOKENIZERS.append(load(MODEL))
    return _TOKENIZERS[0]


def test_plain_text_costs_microseconds_per_token(tokenizer: TokenizerWrapper) -> None:
    tokens = tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 400, add_special_tokens=False)
    best = float("inf")
    for _ in range(3):
        stream = OutputStream(tokenizer, request_of(), prompt_of(), lambda: "x")
        begun = time.thread_time()
        for token in tokens:
            stream.feed(token)
        best = min(best, time.thread_time() - begun)
    assert best / len(tokens) < 30e-6
