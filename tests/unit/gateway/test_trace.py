"""A request's story: told without the client's words, bounded on disk, in the log as one line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import orjson

from gateway.dialects.anthropic.dialect import AnthropicDialect
from gateway.intake.reading import Asked, read_request
from gateway.metrics import RequestRecord
from gateway.trace.file import TraceFile, read_traces
from gateway.trace.shape import MOST_SHOWN, AnswerShape, shape_of
from gateway.trace.story import Story
from shared.config import Settings
from shared.events import Finished, ReasoningDelta, Started, TextDelta, ToolCallDelta, ToolCallStarted, Usage
from shared.messages import Message, ReasoningPart, TextPart, ToolCallPart

SECRET_WORDS = ("the launch code", "Bobby Tables", "rm -rf")
BODY = {
    "model": "m",
    "max_tokens": 9,
    "system": SECRET_WORDS[0],
    "metadata": {"user_id": "user_1_account__session_" + "5" * 8},
    "messages": [
        {"role": "user", "content": SECRET_WORDS[1]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "a", "name": "Bash", "input": {"x": SECRET_WORDS[2]}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "done"}]},
        {"role": "user", "content": "and?"},
    ],
    "tools": [{"name": "Bash", "input_schema": {"type": "object"}}],
}
EVENTS = (
    ReasoningDelta(text="hm " + SECRET_WORDS[0]),
    TextDelta(text=SECRET_WORDS[1]),
    ToolCallStarted(index=0, id="c", name="Bash"),
    ToolCallDelta(index=0, arguments='{"x":1}'),
    Finished(reason="tool_calls", usage=Usage(input_tokens=100, cached_tokens=60, output_tokens=7)),
)


def story(debug: int) -> Story:
    record = RequestRecord(time.monotonic())
    body = orjson.dumps(BODY)
    parsed = read_request(AnthropicDialect(), Asked(headers={}, request_id="req_1"), body, packing=True)
    told = Story(id="req_1", route="messages", debug=debug, record=record, parsed=parsed, request=parsed.request)
    told.take_body(body)
    record.note([Started(usage=Usage(input_tokens=100, cached_tokens=60)), *EVENTS])
    if told.answer is not None:
        told.answer.note(EVENTS)
    told.outcome = "ok"
    return told


def test_what_came_and_what_was_made_of_it_are_told_by_their_shapes() -> None:
    told = story(0).told()
    assert told["came"]["messages"] == "s u a(c) u(t) u"
    assert told["canonical"]["messages"] == "s u a(c) t u"
    assert told["came"]["tools"] == 1
    assert told["tokens"]["cached"] == 60


def test_messages_that_become_one_show_in_the_shapes() -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    parsed = read_request(AnthropicDialect(), Asked(headers={}, request_id="r"), orjson.dumps(body))
    assert (parsed.came, parsed.became) == ("s u u", "s u")


def test_a_long_conversation_is_told_by_its_end() -> None:
    messages = [Message(role="user", parts=(TextPart(text="a"),))] * (MOST_SHOWN + 7)
    assert shape_of(messages).startswith("+7 u u")


def test_parts_besides_text_stand_behind_their_role() -> None:
    parts = (ReasoningPart(text="r"), TextPart(text="t"), ToolCallPart(id="1", name="n", arguments="{}"))
    assert shape_of([Message(role="assistant", parts=parts)]) == "a(rc)"


def test_nothing_that_a_client_or_a_model_said_is_told_below_level_three() -> None:
    for debug in (0, 1, 2):
        said = str(story(debug).told()) + story(debug).line(story(debug).fields())
        assert not any(words in said for words in SECRET_WORDS)
        assert "Bash" not in said
    assert story(2).told()["answer"]["calls"] == 1


def test_level_three_tells_everything_tool_calls_too() -> None:
    told = story(3).told()
    assert all(words in told["body"] for words in SECRET_WORDS)
    assert told["answer"]["text"] == SECRET_WORDS[1]
    assert told["answer"]["calls"] == ["Bash"]
    assert told["answer"]["arguments"] == '{"x":1}'


def test_the_line_in_the_log_has_what_an_operator_asks_for() -> None:
    line = story(0).line(story(0).fields())
    assert line.startswith("req_1 ok: session ")
    for part in ("class interactive", "100 tokens in (60 cached", "40 computed), 7 out", "waited", "first token after"):
        assert part in line


def test_sizes_of_an_answer_are_counted() -> None:
    shape = AnswerShape(keeps_text=False)
    shape.note(EVENTS)
    told = shape.told()
    assert told["text_characters"] == len(SECRET_WORDS[1])
    assert told["finish"] == "tool_calls"


def test_traces_are_bounded_in_size_and_the_youngest_are_kept(tmp_path: Path) -> None:
    file = TraceFile.of(Settings(state_dir=tmp_path, trace_bytes=40_000))
    for number in range(1000):
        file.write({"id": str(number), "at_s": time.time(), "filler": "." * 100})
    file.close()
    kept = [int(trace["id"]) for trace in read_traces(tmp_path)]
    assert kept == list(range(kept[0], 1000))
    assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) <= 41_000


def test_traces_are_bounded_in_age(tmp_path: Path) -> None:
    first = TraceFile.of(Settings(state_dir=tmp_path, trace_days=1.0))
    first.write({"id": "old", "at_s": time.time() - 3 * 86400})
    first.close()
    path = tmp_path / "logs" / "trace-8080.jsonl"
    os.utime(path, (time.time() - 3 * 86400,) * 2)
    second = TraceFile.of(Settings(state_dir=tmp_path, trace_days=1.0))
    second.write({"id": "new", "at_s": time.time()})
    second.close()
    assert [trace["id"] for trace in read_traces(tmp_path)] == ["new"]


def test_without_bytes_or_days_nothing_is_written(tmp_path: Path) -> None:
    for settings in (Settings(state_dir=tmp_path, trace_bytes=0), Settings(state_dir=tmp_path, trace_days=0.0)):
        TraceFile.of(settings).write({"id": "a"})
    assert list(tmp_path.iterdir()) == []
