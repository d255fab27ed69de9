"""Canonical conversations, rule by rule. That they hold together is in test_canonical_growth."""

from __future__ import annotations

import pytest

from gateway.canonical import FILLER, CallLedger, arguments_text, canonicalise, normal_arguments
from gateway.dialects.reminders import wrap_reminders
from shared.messages import (
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolReferencePart,
    ToolResultPart,
)
from shared.request import GenerateRequest, ToolDefinition


def text(value: str) -> TextPart:
    return TextPart(text=value)


def call(call_id: str) -> ToolCallPart:
    return ToolCallPart(id=call_id, name="Bash", arguments="{}")


def result(call_id: str, *parts: TextPart | ImagePart | ToolReferencePart) -> ToolResultPart:
    return ToolResultPart(call_id=call_id, parts=parts)


def system(*parts: Part) -> Message:
    return Message(role="system", parts=parts)


def user(*parts: Part) -> Message:
    return Message(role="user", parts=parts)


def assistant(*parts: Part) -> Message:
    return Message(role="assistant", parts=parts)


def tool(*parts: Part) -> Message:
    return Message(role="tool", parts=parts)


def canonical(*messages: Message) -> tuple[Message, ...]:
    """Of a conversation as a dialect reads it."""
    read = wrap_reminders(messages, ("<system-reminder>", "</system-reminder>"))
    return canonicalise(GenerateRequest(id="r", model="m", messages=read)).messages


def test_the_leading_run_of_system_messages_is_the_head() -> None:
    messages = canonical(system(text("a"), text("b")), system(text("c")), user(text("hi")))
    assert messages == (system(text("a\nb\nc")), user(text("hi")))


def test_a_later_system_message_becomes_a_reminder_in_its_place() -> None:
    messages = canonical(
        system(text("head")),
        user(text("one")),
        system(text("plan mode")),
        assistant(text("ok")),
        system(text("a new day")),
        user(text("two")),
    )
    assert messages == (
        system(text("head")),
        user(text("one\n<system-reminder>\nplan mode\n</system-reminder>")),
        assistant(text("ok")),
        user(text("<system-reminder>\na new day\n</system-reminder>\ntwo")),
    )


def test_a_reminder_is_not_wrapped_twice() -> None:
    wrapped = "<system-reminder>\nplan mode\n</system-reminder>"
    assert canonical(user(text("x")), system(text(f"{wrapped}\n"))) == (user(text(f"x\n{wrapped}")),)


def test_tool_results_come_first_and_in_the_order_of_their_calls() -> None:
    messages = canonical(
        user(text("go")),
        assistant(call("a"), call("b")),
        user(text("note"), result("b", text("2"))),
        system(text("nudge")),
        user(result("a", text("1"))),
    )
    assert messages[2:] == (
        tool(result("call00000", text("1"))),
        tool(result("call00001", text("2"))),
        user(text("note\n<system-reminder>\nnudge\n</system-reminder>")),
    )


def test_call_ids_count_so_that_random_ones_cannot_matter() -> None:
    def conversation(first: str, second: str) -> tuple[Message, ...]:
        return canonical(
            user(text("go")), assistant(call(first)), tool(result(first)), assistant(call(second)), tool(result(second))
        )

    messages = conversation("toolu_x", "toolu_y")
    assert messages == conversation("call_1", "call_9")
    assert messages[3] == assistant(ToolCallPart(id="call00001", name="Bash", arguments="{}"))


def test_an_id_used_again_names_the_latest_call() -> None:
    messages = canonical(
        user(text("go")), assistant(call("a")), tool(result("a")), assistant(call("a")), tool(result("a"))
    )
    assert [m.parts[0].call_id for m in messages if isinstance(m.parts[0], ToolResultPart)] == [
        "call00000",
        "call00001",
    ]


def test_neighbours_of_one_role_are_one_message() -> None:
    messages = canonical(user(text("a")), user(text("b")), assistant(text("c")), assistant(text("d")))
    assert messages == (user(text("a\nb")), assistant(text("cd")))


def test_text_around_an_image_stays_around_it() -> None:
    image = ImagePart(media_type="image/png", data="AAAA")
    messages = canonical(user(text("a"), text("b"), image, text("c")), system(text("s")))
    assert messages == (user(text("a\nb"), image, text("c\n<system-reminder>\ns\n</system-reminder>")),)


@pytest.mark.parametrize("nothing", [" ", "\n", FILLER, f"\n{FILLER}"])
def test_an_answer_without_words_is_forgotten_and_its_thinking_kept(nothing: str) -> None:
    messages = canonical(user(text("a")), assistant(ReasoningPart(text="hm"), text(nothing)), user(text("b")))
    assert messages == (user(text("a")), assistant(ReasoningPart(text="hm")), user(text("b")))


def test_an_empty_answer_is_no_message() -> None:
    assert canonical(user(text("a")), assistant(text(" ")), user(text("b"))) == (user(text("a\nb")),)


def test_empty_messages_and_unreadable_thinking_are_gone() -> None:
    messages = canonical(
        user(), assistant(ReasoningPart(text="", signature="opaque")), user(text("a")), system(text(""))
    )
    assert messages == (user(text("a")),)


def test_a_tool_reference_stays_where_it_is() -> None:
    reference = ToolReferencePart(tool_name="WebFetch")
    tools = (ToolDefinition(name="WebFetch", deferred=True),)
    request = GenerateRequest(
        id="r",
        model="m",
        messages=(user(text("go")), assistant(call("a")), user(result("a", reference))),
        tools=tools,
    )
    assert canonicalise(request).messages[2] == tool(result("call00000", reference))
    assert canonicalise(request).tools == tools


def test_a_result_without_a_call_is_kept_last() -> None:
    messages = canonical(user(text("go")), assistant(call("a")), user(result("lost"), result("a")))
    assert messages[2:] == (tool(result("call00000")), tool(result("lost")))


def test_the_ledger_tells_an_open_call_of_the_same_id() -> None:
    ledger = CallLedger()
    assert ledger.call("x", "Bash")
    assert not ledger.call("x", "Bash")
    assert ledger.result(result("x")) == (result("x"),)
    assert ledger.call("x", "Read")
    assert ledger.result(result("x")) == (result("x"),)


def test_a_result_that_answers_no_open_call_becomes_text() -> None:
    ledger = CallLedger()
    image = ImagePart(media_type="image/png", data="AAAA")
    assert ledger.result(result("x", image)) == (text("Result of an earlier tool call:"), image)
    assert ledger.result(result("x"), "Read") == (text("Result of an earlier call of the tool Read:"),)
    ledger.call("x", "Bash")
    ledger.result(result("x"))
    again = ToolResultPart(call_id="x", parts=(text("no"),), is_error=True)
    assert ledger.result(again, "ignored") == (text("Error of an earlier call of the tool Bash:"), text("no"))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('{"a":1,"b":[true,null]}', '{"a": 1, "b": [true, null]}'),
        ('{\n  "b": "é",\n  "a": 1.5\n}', '{"b": "é", "a": 1.5}'),
        ('{"b": "\\u00e9"}', '{"b": "é"}'),
        ("{'a': 1}", "{'a': 1}"),
        ("[1,2]", "[1,2]"),
        ('{"a":"\\ud800"}', '{"a": "\ufffd"}'),
        ('{"\\ud83d":["\\ud83d\\ude00 \\udc00"]}', '{"\ufffd": ["😀 \ufffd"]}'),
        ("", ""),
    ],
)
def test_arguments_have_one_form(sent: str, kept: str) -> None:
    assert normal_arguments(sent) == kept


def test_arguments_keep_the_order_the_model_chose() -> None:
    assert arguments_text({"z": 1, "a": {"y": 2, "b": 3}}) == '{"z": 1, "a": {"y": 2, "b": 3}}'
