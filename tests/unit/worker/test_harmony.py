"""gpt-oss: its messages become reasoning, text and calls; earlier ones stand in the prompt as it wrote them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.events import (
    Completion,
    Event,
    EventOrder,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
    assemble,
)
from shared.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, ReasoningOptions, SamplingParams, ToolChoice, ToolDefinition
from tests.unit.worker.prompt_models import tokenizer_of
from worker.engines.tokens.output import OutputStream
from worker.formats.harmony import Closed, Opened, Said, Step, Turn, end_tokens, is_harmony
from worker.prompt import Prompt, PromptBuilder

TOOLS = (
    ToolDefinition(name="Bash", description="Run", parameters={"properties": {"command": {"type": "string"}}}),
    ToolDefinition(name="mcp__db__read", description="Read", parameters={"type": "object"}),
)
MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")
THINK = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.Bash <|constrain|>json<|message|>{"command": "ls"}<|call|>'
LS = ("Bash", '{"command": "ls"}')
TOKENIZER = tokenizer_of("harmony")
ENDS = end_tokens(TOKENIZER.get_vocab(), TOKENIZER.eos_token_ids)


def request_of(messages: Sequence[Message] = (), **options: Any) -> GenerateRequest:
    options.setdefault("tools", TOOLS)
    return GenerateRequest(id="r", model="m", messages=tuple(messages), **options)


def user(text: str) -> Message:
    return Message(role="user", parts=(TextPart(text=text),))


def assistant(*parts: Any) -> Message:
    return Message(role="assistant", parts=tuple(TextPart(text=p) if isinstance(p, str) else p for p in parts))


def result(call_id: str, text: str) -> Message:
    return Message(role="tool", parts=(ToolResultPart(call_id=call_id, parts=(TextPart(text=text),)),))


def begun(text: str = "<|start|>assistant", *, continues: bool = False) -> Prompt:
    tokens = TOKENIZER.encode(f"<|start|>user<|message|>Hi<|end|>{text}", add_special_tokens=False)
    return Prompt(tokens=tokens, boundaries=(), in_reasoning=False, continues=continues)


def events_of(
    pieces: Sequence[str], request: GenerateRequest | None = None, prompt: Prompt | None = None, reason: Any = "length"
) -> list[Event]:
    """As the engine feeds them: up to the first token that ends the answer. Checks that the order is legal."""
    ids = itertools.count(1)
    stream = OutputStream(TOKENIZER, request or request_of(), prompt or begun(), lambda: f"call_{next(ids)}")
    events: list[Event] = [Started(usage=Usage())]
    for token in (token for piece in pieces for token in TOKENIZER.encode(piece, add_special_tokens=False)):
        if stream.is_over:
            break
        if token in ENDS:
            reason = "stop"
            break
        events += stream.feed(token)
    last, finish_reason, stop = stream.finish(reason)
    events += [*last, Finished(reason=finish_reason, usage=Usage(), stop_sequence=stop)]
    order = EventOrder()
    for event in events:
        order.feed(event)
    assert order.ended
    return events


def answer(text: str | Sequence[str], *args: Any, **options: Any) -> Completion:
    return assemble(events_of([text] if isinstance(text, str) else text, *args, **options))


def said(completion: Completion) -> list[Any]:
    """Text as it is, reasoning as ("think", text), calls as (name, arguments)."""
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


# Answers.


def test_analysis_is_reasoning_and_final_is_text() -> None:
    completion = answer(f"{THINK}<|channel|>final<|message|>Hello, wörld 👋.<|return|>")
    assert said(completion) == [("think", "Let me see."), "Hello, wörld 👋."]
    assert completion.reason == "stop"


def test_a_call_streams_its_arguments_as_they_are_generated() -> None:
    events = events_of([f"{THINK}{CALL}"])
    assert said(assemble(events)) == [("think", "Let me see."), LS]
    assert assemble(events).reason == "tool_calls"
    assert sum(isinstance(event, ToolCallDelta) for event in events) > 2


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.Bash <|constrain|>json",
        "<|channel|>commentary to=functions.Bash<|constrain|>json",
        "<|channel|>commentary to=functions.Bash json",
        "<|channel|>commentary to=functions.Bash",
        "<|channel|>analysis to=functions.Bash code",
        " to=functions.Bash<|channel|>commentary json",
        " to=functions.Bash <|constrain|>json",
        " to=functions.Bash<|channel|>commentary <|constrain|>json",
        "<|channel|>commentary to=Bash json",
        "<|channel|>commentary to=functions.bash json",
    ],
)
def test_a_call_is_read_wherever_the_header_names_its_recipient(header: str) -> None:
    assert said(answer(f'{header}<|message|>{{"command": "ls"}}<|call|>')) == [LS]


def test_a_preamble_is_text_before_the_call_and_apart_from_the_final_message() -> None:
    preamble = "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant"
    assert said(answer(f"{THINK}{preamble}{CALL}")) == [("think", "Let me see."), "I will look.", LS]
    both = f"{preamble}<|channel|>final<|message|>Done.<|return|>"
    assert said(answer(both)) == ["I will look.\n\nDone."]
    assert said(answer(f"{preamble}<|channel|>final<|message|><|return|>")) == ["I will look."]


def test_several_calls_in_one_answer() -> None:
    first = CALL.replace("<|call|>", "<|end|><|start|>assistant")
    second = CALL.replace("Bash", "mcp__db__read")
    assert said(answer(first + second)) == [LS, ("mcp__db__read", LS[1])]


def test_a_call_of_an_unknown_tool_reaches_the_client() -> None:
    assert said(answer(CALL.replace("Bash", "Nope"))) == [("Nope", LS[1])]


@pytest.mark.parametrize("recipient", ["browser.search", "python", "container.exec"])
def test_a_built_in_tool_is_text(recipient: str) -> None:
    completion = answer(f'{THINK}<|channel|>analysis to={recipient} code<|message|>{{"a": 1}}<|call|>')
    assert said(completion) == [("think", "Let me see."), f'to={recipient} {{"a": 1}}']
    assert completion.reason == "stop"


def test_without_tools_a_call_is_text_and_with_choice_none_it_is_cut_from_the_answer() -> None:
    assert said(answer(CALL, request_of(tools=()))) == ['to=functions.Bash {"command": "ls"}']
    muted = answer(
        f"<|channel|>final<|message|>No.<|start|>assistant{CALL}", request_of(tool_choice=ToolChoice(mode="none"))
    )
    assert said(muted) == ["No."]
    assert muted.reason == "stop"


@pytest.mark.parametrize(
    ("body", "arguments", "is_valid"),
    [
        ("", "{}", True),
        ("  ", "{}", True),
        ('{"command": "ls"', '{"command": "ls"}', True),
        ("{'command': True,}", '{"command": true}', True),
        ("ls -la", "ls -la", False),
        ("[1]", "[1]", False),
        ('{"a": 1 ls}', '{"a": 1 ls}', False),
    ],
)
def test_arguments_are_repaired_or_passed_on(body: str, arguments: str, is_valid: bool) -> None:
    events = events_of([f"<|channel|>commentary to=functions.Bash json<|message|>{body}<|call|>"])
    assert said(assemble(events)) == [("Bash", arguments)]
    assert events[-2].is_valid is is_valid  # type: ignore[union-attr]


def test_what_follows_the_arguments_is_text() -> None:
    body = '{"command": "ls"}\nThat lists files.<|call|>'
    assert said(answer(f"<|channel|>commentary to=functions.Bash json<|message|>{body}")) == [LS, "That lists files."]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Hello there.", ["Hello there."]),
        ("Hello " * 200 + "x<|return|>", ["Hello " * 200 + "x"]),
        ("<|message|>Hello.<|return|>", ["Hello."]),
        ("<|channel|>critic<|message|>Hello.<|return|>", ["Hello."]),
        ("<|channel|>final Hello there.<|return|>", ["Hello there."]),
        ("<|channel|>Hello there.<|return|>", ["Hello there."]),
        ("<|channel|>final<|message|>Hello.", ["Hello."]),
        ("<|channel|>final<|message|>Hello.<|message|> You.<|constrain|><|return|>", ["Hello. You."]),
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Yes.<|return|>", [("think", "Hm."), "Yes."]),
        (
            "<|channel|>analysis<|message|>Hm.<|end|>assistant<|channel|>final<|message|>Yes.",
            [("think", "Hm."), "Yes."],
        ),
        ("<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>fin", [("think", "Hm.")]),
        ("<|channel|>analysis<|message|>Hm.<|end|>", [("think", "Hm.")]),
        ("<|channel|>commentary to=functions.Ba", []),
        ("<|channel|>commentary t", []),
        (" to=functions.Bash<|channel|>commentary js", []),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.Ba", [("think", "Hm.")]),
        ("I set to=functions.Ba and go on to", ["to=functions.Ba I set and go on to"]),
        ("<|channel|>commentary to=functions.Bash<|call|>", [("Bash", "{}")]),
        ('<|channel|>commentary to=functions.Bash json<|message|>{"command": "l', [("Bash", '{"command": "l')]),
        ("<|channel|>commentary to=functions. json<|message|>{}<|call|>", ["to=functions. {}"]),
        ("Sure: <|channel|>final<|message|>Yes.<|return|>", ["Sure: \n\nYes."]),
        ("<|end|><|end|><|start|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>", ["Yes."]),
        ("<|channel|>final<|message|>See `<|im_start|>`.<|return|>", ["See ``."]),
    ],
)
def test_odd_or_cut_messages_are_shown_as_what_they_are(text: str, parts: list[Any]) -> None:
    shown = [re.sub(r"\s+\n", "\n", part) if isinstance(part, str) else part for part in said(answer(text))]
    assert shown == [re.sub(r"\s+\n", "\n", part) if isinstance(part, str) else part for part in parts]


def test_text_that_spells_a_control_token_stays_text() -> None:
    pieces = ["<|channel|>final<|message|>Write <|", "end|> and <|ca", "ll|>.<|return|>"]
    assert said(answer(pieces)) == ["Write <|end|> and <|call|>."]


def test_a_character_cut_by_a_control_token_is_replaced_not_moved() -> None:
    wave = TOKENIZER.encode("👋", add_special_tokens=False)
    assert len(wave) > 1
    ids = TOKENIZER.encode("<|channel|>analysis<|message|>a", add_special_tokens=False) + wave[:1]
    ids += TOKENIZER.encode("<|end|><|start|>assistant<|channel|>final<|message|>b", add_special_tokens=False)
    stream = OutputStream(TOKENIZER, request_of(), begun(), lambda: "id")
    events = [event for token in ids for event in stream.feed(token)] + stream.finish("stop")[0]
    assert events == [ReasoningDelta(text="a"), TextDelta(text="b")]


def test_stop_sequences_count_in_text_only() -> None:
    request = request_of(sampling=SamplingParams(stop=("see",)))
    completion = answer(f"{THINK}<|channel|>final<|message|>As you see, so.<|return|>", request)
    assert said(completion) == [("think", "Let me see."), "As you "]
    assert (completion.reason, completion.stop_sequence) == ("stop_sequence", "see")


@pytest.mark.parametrize("before", ["", THINK, "<|channel|>commentary<|message|>  <|end|><|start|>assistant"])
def test_headers_and_reasoning_have_no_logprobs(before: str) -> None:
    stream = OutputStream(TOKENIZER, request_of(), begun(), lambda: "id")
    text = f"{before}<|channel|>final<|message|>Yes, of course.<|return|>"
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    events = [e for token in ids for e in stream.feed(token, TokenLogprob(token=TOKENIZER.decode([token]), logprob=0))]
    events += stream.finish("stop")[0]
    logprobs = [logprob.token for event in events if isinstance(event, TextDelta) for logprob in event.logprobs]
    assert "".join(logprobs).strip() == "Yes, of course."


def test_an_answer_that_the_client_began_goes_on_in_its_message() -> None:
    prompt = begun("<|start|>assistant<|channel|>final<|message|>Once upon", continues=True)
    assert said(answer(" a time.<|return|>", prompt=prompt)) == [" a time."]
    prompt = begun("<|start|>assistant<|channel|>analysis<|message|>")
    assert said(answer("Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>", prompt=prompt)) == [
        ("think", "Hm."),
        "Yes.",
    ]


pieces_of_answers = st.one_of(
    st.sampled_from(MARKS),
    st.sampled_from(
        ("assistant", "analysis", "final", "commentary", " to=functions.Bash", " to=python", "json", "user", "\n", " ")
    ),
    st.sampled_from(('{"command": "ls"}', '{"a": "', "[", "STOP", "x" * 600, "👋é", "to=", "<|end", "functions.")),
    st.text(max_size=6),
)


@given(
    pieces=st.lists(pieces_of_answers, max_size=14),
    size=st.integers(1, 7),
    reason=st.sampled_from(["stop", "length"]),
    has_tools=st.booleans(),
    stop=st.sampled_from([(), ("STOP",), ("\n\n",)]),
)
@example(pieces=["<|channel|>", " to=python", "x" * 600], size=1, reason="stop", has_tools=True, stop=())
@settings(max_examples=300, deadline=None)
def test_any_tokens_give_legal_events_that_do_not_depend_on_how_text_is_cut(
    pieces: list[str], size: int, reason: str, has_tools: bool, stop: tuple[str, ...]
) -> None:
    request = request_of(tools=TOOLS if has_tools else (), sampling=SamplingParams(stop=stop))
    cut: list[str] = []
    for piece in pieces:
        cut += [piece] if piece in MARKS else [piece[at : at + size] for at in range(0, len(piece), size)]
    whole = events_of(_merged(pieces), request, reason=reason)
    parts = events_of(cut, request, reason=reason)
    assert said(assemble(parts)) == said(assemble(whole))
    texts = [event.text for event in whole if isinstance(event, TextDelta | ReasoningDelta)]
    spelled = "".join(piece for piece in pieces if piece not in MARKS)
    assert all(mark not in "".join(texts) or mark in spelled for mark in MARKS)


def _merged(pieces: Sequence[str]) -> list[str]:
    """Texts that follow one another in one piece, so that the tokenizer cuts them as it likes; unless that would
    spell a control token."""
    merged: list[str] = []
    for is_mark, run in itertools.groupby(pieces, lambda piece: piece in MARKS):
        texts = list(run)
        joined = "".join(texts)
        merged += texts if is_mark or any(token in joined for token in TOKENIZER.get_added_vocab()) else [joined]
    return merged


@given(tokens=st.lists(st.integers(0, len(TOKENIZER) + 3), max_size=60), reason=st.sampled_from(["stop", "length"]))
@settings(max_examples=150, deadline=None)
def test_random_token_ids_are_no_crash(tokens: list[int], reason: Any) -> None:
    stream = OutputStream(TOKENIZER, request_of(), begun(), lambda: "id")
    order = EventOrder()
    order.feed(Started(usage=Usage()))
    for token in tokens:
        for event in stream.feed(token):
            order.feed(event)
    for event in stream.finish(reason)[0]:
        order.feed(event)


@given(cuts=st.lists(st.integers(1, 700), max_size=6), marked=st.booleans())
@example(cuts=[1500], marked=True)
def test_text_too_long_for_a_header_is_text_however_it_is_cut(cuts: list[int], marked: bool) -> None:
    text = "".join(f"{number} " for number in range(500))
    turn, steps, at = Turn(lambda recipient: True), list[Step](), 0
    if marked:
        steps += turn.control("<|channel|>")
    for size in [*cuts, len(text)]:
        steps += turn.text(text[at : at + size])
        at += size
    steps += turn.finish(is_complete=True)
    assert steps[0] == Opened("text")
    assert steps[-1] == Closed()
    assert "".join(step.text for step in steps if isinstance(step, Said)) == text


HEADERS = {
    "think": "<|channel|>analysis<|message|>",
    "text": "<|channel|>final<|message|>",
    "preamble": "<|channel|>commentary<|message|>",
    "built in": "<|channel|>analysis to=python code<|message|>",
    "call": "<|channel|>commentary to=functions.Bash <|constrain|>json<|message|>",
}
bodies = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=12)


@given(messages=st.lists(st.tuples(st.sampled_from(sorted(HEADERS)), bodies), max_size=6), ends=st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_character_of_every_message_arrives_in_its_place(messages: list[tuple[str, str]], ends: bool) -> None:
    expected = ""
    pieces: list[str] = []
    for kind, body in messages:
        if kind == "call":
            body = json.dumps({"command": body}, ensure_ascii=False)
        pieces += [HEADERS[kind], body, "<|end|>", "<|start|>assistant"]
        expected += ("to=python" if kind == "built in" else "") + body
    pieces = pieces[:-2] if ends else pieces
    events = events_of(pieces)
    got = "".join(
        event.arguments if isinstance(event, ToolCallDelta) else event.text
        for event in events
        if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)
    )
    assert "".join(got.split()) == "".join(expected.split())
    kinds = {ReasoningPart: "think", TextPart: "text", ToolCallPart: "call"}
    order = [kinds[type(part)] for part in assemble(events).parts]  # type: ignore[index]
    shown = [
        {"preamble": "text", "built in": "text"}.get(kind, kind)
        for kind, body in messages
        if body.strip() or kind in ("call", "built in")
    ]
    calls = [kind for kind, run in itertools.groupby(shown) for kind in (run if kind == "call" else [kind])]
    assert order == calls


def test_only_calls_and_the_last_message_end_an_answer() -> None:
    vocabulary = {"<|end|>": 1, "<|call|>": 2, "<|return|>": 3, "<|start|>": 4, "<|channel|>": 5, "<|message|>": 6}
    assert end_tokens(vocabulary, [1, 9]) == {2, 3, 9}
    assert is_harmony(vocabulary)
    assert not is_harmony(tokenizer_of("qwen3").get_vocab())


# Prompts.


def shown(messages: Sequence[Message], **options: Any) -> str:
    prompt = PromptBuilder(TOKENIZER, context_tokens=1 << 20).build(request_of(messages, **options))
    return str(TOKENIZER.decode(prompt.tokens))


def test_reasoning_preamble_call_and_result_stand_in_the_prompt_as_the_model_writes_them() -> None:
    call = ToolCallPart(id="c1", name="Bash", arguments='{"command":"ls"}')
    messages = [user("Hi"), assistant(ReasoningPart(text="Hm."), "I look.", call), result("c1", "a.txt")]
    messages += [assistant(ReasoningPart(text="Ah."), "One file."), user("Thanks")]
    assert shown(messages).partition("<|start|>user<|message|>Hi<|end|>")[2] == (
        "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        '<|start|>assistant to=functions.Bash<|channel|>commentary json<|message|>{"command": "ls"}<|call|>'
        '<|start|>functions.Bash to=assistant<|channel|>commentary<|message|>"a.txt"<|end|>'
        "<|start|>assistant<|channel|>analysis<|message|>Ah.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>One file.<|end|>"
        "<|start|>user<|message|>Thanks<|end|><|start|>assistant"
    )


def test_a_template_that_knows_less_still_gives_prompts_that_only_grow() -> None:
    """As the first of gpt-oss did: no reasoning beside a call, which ends like any message."""
    tokenizer = tokenizer_of.__wrapped__("harmony")
    template = str(tokenizer.chat_template).replace("<|call|>", "<|end|>")
    tokenizer._tokenizer.chat_template = template.replace("(m.content or m.thinking)", "m.content")
    builder = PromptBuilder(tokenizer, context_tokens=1 << 20)
    call = ToolCallPart(id="c1", name="Bash", arguments='{"command":"ls"}')
    messages = [user("Hi"), assistant("I look.", call), result("c1", "a.txt")]
    messages += [assistant(ReasoningPart(text="Ah."), "One file."), user("Thanks")]
    prompts = [builder.build(request_of(messages[:end])).tokens for end in (1, 3, 5)]
    for shorter, longer in itertools.pairwise(prompts):
        assert longer[: len(shorter)] == shorter
    text = tokenizer.decode(prompts[-1])
    assert "I look." in text
    assert '{"command": "ls"}<|end|><|start|>functions.Bash' in text
    assert "analysis<|message|>Ah.<|end|><|start|>assistant<|channel|>final<|message|>One file.<|end|>" in text


def test_a_preamble_without_reasoning_opens_no_empty_reasoning() -> None:
    call = ToolCallPart(id="c1", name="Bash", arguments="{}")
    text = shown([user("Hi"), assistant("I look.", call), result("c1", "a.txt")])
    assert "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions" in text
    assert "analysis<|message|>" not in text


def test_each_of_several_calls_stands_before_its_result() -> None:
    calls = [ToolCallPart(id=f"c{i}", name="Bash", arguments=json.dumps({"command": str(i)})) for i in range(2)]
    text = shown([user("Hi"), assistant(*calls), result("c0", "zero"), result("c1", "one")])
    places = [text.index(word) for word in ('{"command": "0"}', '"zero"', '{"command": "1"}', '"one"')]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("options", "effort"),
    [
        ({}, "medium"),
        ({"effort": "low"}, "low"),
        ({"effort": "max"}, "high"),
        ({"enabled": False}, "low"),
        ({"enabled": False, "effort": "high"}, "high"),
        ({"enabled": True}, "medium"),
        ({"enabled": True, "budget_tokens": 1024}, "low"),
        ({"enabled": True, "budget_tokens": 8000}, "medium"),
        ({"enabled": True, "budget_tokens": 31999}, "high"),
    ],
)
def test_effort_and_budget_become_the_templates_effort(options: dict[str, Any], effort: str) -> None:
    assert f"Reasoning: {effort}\n" in shown([user("Hi")], reasoning=ReasoningOptions(**options))


def test_an_answer_the_client_began_is_put_into_a_final_message() -> None:
    begin = "<|start|>user<|message|>Hi<|end|><|start|>assistant"
    assert shown([user("Hi"), assistant("Once")]).endswith(f"{begin}<|channel|>final<|message|>Once")
    text = shown([user("Hi"), assistant(ReasoningPart(text="Hm."), "Once")])
    assert text.endswith(
        f"{begin}<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Once"
    )
