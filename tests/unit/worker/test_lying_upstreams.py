"""Servers that lie, break off, trickle and flood: each ends in time with an error that says what was wrong, or in the
answer that was meant; memory is bounded, and the next request is answered. Their bytes come from
`tests.support.rude_upstream`; what both dialects make of such errors: `tests/integration/test_rude_upstreams.py`."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.config import Settings
from shared.errors import GatewayError, ModelUnavailableError, OverloadedError, PromptTooLongError, WorkerLostError
from shared.events import Completion
from shared.messages import Message, TextPart, ToolCallPart
from shared.remotes import parse_remotes
from shared.request import GenerateRequest, ToolDefinition
from tests.support.asked import Asked
from tests.support.rude_upstream import (
    GOOD,
    SSE,
    Line,
    RudeUpstream,
    Script,
    delta,
    end,
    event,
    models,
    serving_rudely,
    whole,
)
from worker.engines.remote import reading, source
from worker.engines.remote.source import RemoteSource

SILENCE_S = 0.3  # where silence is what is tested; else nothing is ever silent for as long as it may be
PATIENCE_S = 30.0
DONE = event(b"[DONE]")
MB = 1 << 20


def ask(key: str = "r", text: str = "hello", **more: Any) -> GenerateRequest:
    return GenerateRequest(id=key, model="far", messages=(Message(role="user", parts=(TextPart(text=text),)),), **more)


@contextmanager
def asked_of(upstream: RudeUpstream, folder: Path, *, is_away: bool = False, **entry: Any) -> Iterator[Asked]:
    """`is_away`: what it says of its models is no use, so that loading does not wait for it."""
    with serving_rudely(upstream) as url, pytest.MonkeyPatch.context() as patch:
        if is_away:
            patch.setattr(source, "_WAIT_S", 0.05)
        remote = {"id": "far", "url": url, "profile": "openai", "probe": False, "silence_s": PATIENCE_S, **entry}
        (folder / "remotes.json").write_text(json.dumps({"remotes": [remote]}))
        spec = parse_remotes(json.loads((folder / "remotes.json").read_text()))[0].spec
        asked = Asked(RemoteSource(spec, Settings(state_dir=folder, config_dir=folder)))
        try:
            yield asked
        finally:
            upstream.is_over.set()
            assert asked.engine.unload(10)


def call(index: int, arguments: str = "", **fields: Any) -> bytes:
    function = {"arguments": arguments, **({"name": fields.pop("name")} if "name" in fields else {})}
    return delta(tool_calls=[{"index": index, "function": function, **fields}])


def trickled(first: bytes, again: bytes) -> Script:
    def script(line: Line) -> None:
        line.say(first)
        line.trickle(again, SILENCE_S / 20)

    return script


def flooded(first: bytes, again: bytes, times: int = 400) -> Script:
    def script(line: Line) -> None:
        line.say(first)
        line.flood(again, times)

    return script


def half_closed(line: Line) -> None:
    line.say(SSE + delta(content="so"))
    line.half_close()


def held(first: bytes) -> Script:
    def script(line: Line) -> None:
        line.say(first)
        line.hold()

    return script


def error_of(**error: Any) -> bytes:
    return whole(json.dumps({"error": error}).encode())


BAD: dict[str, tuple[Script | bytes, type[GatewayError], str]] = {
    "an event that is no JSON": (SSE + event(b'{"choices": [{"del'), WorkerLostError, "no JSON"),
    "a page of HTML": (whole(b"<html>Sign in</html>", "text/html"), WorkerLostError, "no JSON"),
    "an empty body": (whole(b""), WorkerLostError, "no JSON"),
    "a list for an object": (SSE + event([1, 2]), WorkerLostError, "no object"),
    "choices that are a number": (SSE + event({"choices": 5}), WorkerLostError, "cannot be read"),
    "a choice that is a text": (SSE + event({"choices": ["x"]}), WorkerLostError, "cannot be read"),
    "a delta that is a text": (SSE + event({"choices": [{"delta": "x"}]}), WorkerLostError, "cannot be read"),
    "a text that is an object": (SSE + delta(content={"a": 1}), WorkerLostError, "cannot be read"),
    "calls that are nothing": (SSE + delta(tool_calls=[None]), WorkerLostError, "cannot be read"),
    "a call's number that is a text": (SSE + delta(tool_calls=[{"index": "x"}]), WorkerLostError, "cannot be read"),
    "bytes that are no bytes": (
        SSE + event({"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [{"bytes": [999]}]}}]}),
        WorkerLostError,
        "cannot be read",
    ),
    "half of a surrogate pair": (
        SSE + event(rb'{"choices": [{"delta": {"content": "\ud800"}}]}'),
        WorkerLostError,
        "no JSON",
    ),
    "arguments of a call that has ended": (
        SSE + call(0, "{}", name="A", id="1") + call(1, "{}", name="B", id="2") + call(0, '{"x": 1}') + end(),
        WorkerLostError,
        "not named, or that has ended",
    ),
    "an error in a 200": (error_of(message="it broke"), GatewayError, "it broke"),
    "an error with its status in a 200": (error_of(message="slow down", code=429), OverloadedError, "slow down"),
    "an error of the window in a 200": (
        error_of(message="no", code="context_length_exceeded"),
        PromptTooLongError,
        "too long",
    ),
    "a detail in a 200": (whole(b'{"detail": "no such deployment"}'), GatewayError, "no such deployment"),
    "an object of kind error": (SSE + event({"object": "error", "message": "boom"}), GatewayError, "boom"),
    "an event named error": (SSE + b"event: error\n" + event({"message": "boom"}), GatewayError, "boom"),
    "JSON where events were promised": (
        whole(b'{"error": {"message": "it broke"}}', "text/event-stream"),
        GatewayError,
        "it broke",
    ),
    "steering signs in an error": (error_of(message="bad\x1b[2J\nworse"), GatewayError, r"bad \[2J worse"),
    "a redirect": (
        whole(b"", status="307 Go", location="http://127.0.0.1:1/v1"),
        ModelUnavailableError,
        "sends its clients to another address",
    ),
    "no content": (whole(b"", status="204 No"), GatewayError, "status 204"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", WorkerLostError, "no HTTP answer"),
    "a head without end": (trickled(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"), WorkerLostError, "silent"),
    "a head of megabytes": (
        flooded(b"HTTP/1.1 200 OK\r\n", b"x-%s: y\r\n" % (b"n" * 4000)),
        WorkerLostError,
        "head of the answer is too large",
    ),
    "interim answers without end": (
        trickled(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        WorkerLostError,
        "silent",
    ),
    "a line that trickles": (trickled(SSE + b"data: ", b" "), WorkerLostError, "silent"),
    "a line without end": (flooded(SSE + b"data: ", b"x" * MB, 200), WorkerLostError, "longer than 8 MB"),
    "a body that trickles": (
        trickled(b"HTTP/1.1 500 No\r\ncontent-length: 9999999\r\n\r\n", b" "),
        WorkerLostError,
        "silent",
    ),
    "a body without end": (
        flooded(b"HTTP/1.1 500 No\r\ncontent-length: 999999999999\r\n\r\n", b" " * MB, 200),
        WorkerLostError,
        "larger than 64 MB",
    ),
    "a compressed bomb": (
        whole(gzip.compress(b" " * 100 * MB), content_encoding="gzip"),
        WorkerLostError,
        "compressed, which was not asked for",
    ),
    "half a connection": (half_closed, WorkerLostError, "without saying why"),
    "less than its length": (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n" + delta(content="so"),
        WorkerLostError,
        "connection was closed",
    ),
    "a chunk that is none": (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        WorkerLostError,
        "no HTTP answer",
    ),
    "nothing": (held(b""), WorkerLostError, "silent"),
    "an answer without end": (
        flooded(SSE, delta(content="x" * MB), 40),
        WorkerLostError,
        "has no end",
    ),
    "a call without end": (
        flooded(SSE + call(0, "", name="A"), call(0, "x" * MB), 40),
        WorkerLostError,
        "has no end",
    ),
}


def patience_s(words: str) -> float:
    return SILENCE_S if words == "silent" else PATIENCE_S


def be_patient(asked: Asked) -> None:
    """What is not about silence is not to be decided by it."""
    asked.source._remote = replace(asked.source._remote, silence_s=PATIENCE_S)


@pytest.mark.parametrize("case", BAD)
def test_a_lie_is_told_in_time_and_the_next_request_is_answered(case: str, tmp_path: Path) -> None:
    script, expected, words = BAD[case]
    upstream = RudeUpstream(script)
    with asked_of(upstream, tmp_path, key="secret", silence_s=patience_s(words)) as asked:
        with pytest.raises(expected, match=words) as caught:
            asked.answer(ask("bad"))
        assert len(str(caught.value)) < 1000
        be_patient(asked)
        upstream.script = GOOD
        assert asked.answer(ask("good")).parts == (TextPart(text="good"),)
        assert asked.error is None


def test_nothing_is_sent_to_where_a_redirect_leads(tmp_path: Path) -> None:
    elsewhere = RudeUpstream(GOOD)
    with serving_rudely(elsewhere) as there:
        location = f"{there}/v1/chat/completions"
        for status in ("301 M", "302 F", "303 S", "307 T", "308 P"):
            upstream = RudeUpstream(whole(b"", status=status, location=location))
            upstream.listing["/v1/models"] = models({"id": "m"})
            with asked_of(upstream, tmp_path, key="secret") as asked:
                with pytest.raises(ModelUnavailableError, match="another address"):
                    asked.answer(ask())
                upstream.listing["/v1/models"] = whole(b"", status=status, location=f"{there}/v1/models")
                with pytest.raises(ModelUnavailableError, match="answers with status 30"):
                    asked.answer(ask("again"))
    assert elsewhere.asked == []


@pytest.mark.parametrize("limit", ["a line without end", "a body without end", "a head of megabytes"])
def test_what_floods_is_not_kept(limit: str, tmp_path: Path) -> None:
    upstream = RudeUpstream(BAD[limit][0])
    with asked_of(upstream, tmp_path) as asked:
        tracemalloc.start()
        try:
            with pytest.raises(WorkerLostError):
                asked.answer(ask())
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 200 * MB


def completion(body: bytes, folder: Path, **entry: Any) -> Completion:
    with asked_of(RudeUpstream(body), folder, **entry) as asked:
        return asked.answer(ask(tools=(ToolDefinition(name="A", description="", parameters={"type": "object"}),)))


def calls_of(came: Completion) -> list[tuple[str, str]]:
    return [(part.name, part.arguments) for part in came.parts if isinstance(part, ToolCallPart)]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": True},
        {"prompt_tokens": "12", "completion_tokens": 2.5},
        {"prompt_tokens": 1 << 63, "completion_tokens": (1 << 64) - 1},
        {"prompt_tokens": 10**30, "completion_tokens": [1]},
    ],
)
def test_counts_that_cannot_be_are_unknown(usage: dict[str, Any], tmp_path: Path) -> None:
    came = completion(SSE + delta(content="so") + end(usage=usage) + DONE, tmp_path)
    assert (came.usage.input_tokens, came.usage.output_tokens) == (None, None)


@pytest.mark.parametrize("tokens", [10**9, 500_000, 70])
def test_a_lie_about_a_prompt_refuses_no_later_one(tokens: int, tmp_path: Path) -> None:
    """What is learned of a server's tokens decides which prompts are not sent."""
    body = SSE + delta(content="so") + end(usage={"prompt_tokens": tokens}) + DONE
    upstream = RudeUpstream(body, {"/v1/models": models({"id": "m", "max_model_len": 4096})})
    with asked_of(upstream, tmp_path) as asked:
        for number in range(5):
            assert asked.answer(ask(f"r{number}", "word " * 300)).parts == (TextPart(text="so"),)


def test_calls_of_one_number_are_told_apart_by_their_ids_and_by_their_ends(tmp_path: Path) -> None:
    """Some servers number all calls 0; some say name and id with each part of one."""
    by_id = call(0, '{"a": 1}', name="A", id="1") + call(0, '{"a": 2}', name="A", id="2")
    by_end = call(0, '{"a": 1}', name="A") + call(0, '{"a": 2}', name="A")
    repeated = call(0, '{"a"', name="A", id="1") + call(0, ": 1}", name="A", id="1")
    twice = [("A", '{"a": 1}'), ("A", '{"a": 2}')]
    assert calls_of(completion(SSE + by_id + end("tool_calls") + DONE, tmp_path)) == twice
    assert calls_of(completion(SSE + by_end + end("tool_calls") + DONE, tmp_path)) == twice
    assert calls_of(completion(SSE + repeated + end("tool_calls") + DONE, tmp_path)) == twice[:1]


def test_calls_have_ids_of_their_own_whatever_the_server_calls_them(tmp_path: Path) -> None:
    upstream = RudeUpstream(SSE + call(0, "{}", name="A", id="same") + end("tool_calls") + DONE)
    with asked_of(upstream, tmp_path) as asked:
        came = [asked.answer(ask(key)).parts[0] for key in ("one", "two")]
    ids = {part.id for part in came if isinstance(part, ToolCallPart)}
    assert len(ids) == 2
    assert "same" not in ids


def test_broken_arguments_are_passed_on_and_known_to_be_broken(tmp_path: Path) -> None:
    came = completion(SSE + call(0, '{"a": ', name="A") + end("tool_calls") + DONE, tmp_path)
    assert calls_of(came) == [("A", '{"a": ')]


@pytest.mark.parametrize(
    "body",
    [
        whole(delta(content="so") + end() + DONE, "application/json"),
        whole(delta(content="so") + end() + DONE, "Text/Event-Stream; charset=utf-8"),
        whole(b"\xef\xbb\xbf" + delta(content="so") + end() + DONE, "text/plain"),
        whole(b'{"choices": [\n{"message": {"content": "so"}, "finish_reason": "stop"}]}', "text/html"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + SSE + delta(content="so") + end() + DONE,
        b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + SSE + delta(content="so") + end(),
        whole(delta(content="so") + end() + DONE, "text/event-stream") + whole(delta(content="other") + end()),
        SSE + delta(content=[{"type": "text", "text": "so"}]) + end() + DONE,
        SSE + delta(content="so") + end() + b"data: {broken\n\n",
        (SSE + delta(content="so") + end() + DONE).replace(b"\n", b"\r\n").replace(b"\r\r", b"\r"),
    ],
)
def test_what_is_meant_is_read_whatever_it_is_called(body: bytes, tmp_path: Path) -> None:
    assert completion(body, tmp_path).parts == (TextPart(text="so"),)


def test_an_answer_that_has_ended_does_not_wait_for_a_server_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_AFTER_S", 0.1)
    said = SSE + delta(content="so") + end()
    for script in (held(said), trickled(said, b": alive\n\n")):
        with asked_of(RudeUpstream(script), tmp_path) as asked:
            assert asked.answer(ask()).parts == (TextPart(text="so"),)


def test_signs_of_life_alone_are_given_up_and_with_progress_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MUTE_S", 0.3)
    with asked_of(RudeUpstream(trickled(SSE, b": alive\n\n")), tmp_path) as asked:
        with pytest.raises(WorkerLostError, match="signs of life alone"):
            asked.answer(ask())

    def prefill(line: Line) -> None:
        line.say(SSE)
        for done in range(1, 10):
            time.sleep(0.1)
            line.say(b": keepalive %d/9\n" % done)
        line.say(delta(content="so") + end())

    with asked_of(RudeUpstream(prefill), tmp_path) as asked:
        assert asked.answer(ask()).parts == (TextPart(text="so"),)


@pytest.mark.parametrize("said", ["31536000", "9" * 400, "-5", "Wed, 21 Oct 2099 07:28:00 GMT", ""])
def test_nobody_is_sent_away_for_a_year(said: str, tmp_path: Path) -> None:
    body = whole(b'{"error": {"message": "busy"}}', status="429 Slow", retry_after=said)
    with asked_of(RudeUpstream(body), tmp_path) as asked:
        with pytest.raises(OverloadedError) as caught:
            asked.answer(ask())
    assert 0 < caught.value.details["retry_after_s"] <= 600


@pytest.mark.parametrize(
    "entry",
    [
        {"id": {"a": 1}},
        {"id": "a\x1b[2J"},
        {"id": "a\nb"},
        {"id": "x" * 10_000},
        "m",
        None,
    ],
)
def test_names_that_nobody_could_say_are_no_models(entry: Any, tmp_path: Path) -> None:
    with asked_of(RudeUpstream(GOOD, {"/v1/models": models(entry)}), tmp_path, is_away=True, model="m") as asked:
        with pytest.raises(ModelUnavailableError, match="has no model 'm'; there are: none"):
            asked.answer(ask())


@pytest.mark.parametrize("listed", [b"[]", b'{"data": 5}', b'{"data": {"a": 1}}', b"nonsense", b'{"data": [{"id": "m"'])
def test_lists_that_are_none_leave_the_model_away(listed: bytes, tmp_path: Path) -> None:
    upstream = RudeUpstream(GOOD, {"/v1/models": whole(listed)})
    with asked_of(upstream, tmp_path, is_away=True) as asked:
        with pytest.raises(ModelUnavailableError):
            asked.answer(ask())
        upstream.listing["/v1/models"] = models({"id": "../../etc/passwd"})
        assert asked.answer(ask("later")).parts == (TextPart(text="good"),)


def test_a_list_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    huge = b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n" + b" " * (100 * MB)
    upstream = RudeUpstream(GOOD, {"/v1/models": huge})
    with asked_of(upstream, tmp_path, is_away=True) as asked:
        with pytest.raises(ModelUnavailableError, match="larger than 8 MB"):
            asked.answer(ask())


def test_of_a_hundred_thousand_models_a_few_are_told(tmp_path: Path) -> None:
    many = models(*({"id": f"m{number}"} for number in range(100_000)))
    with asked_of(RudeUpstream(GOOD, {"/v1/models": many}), tmp_path, is_away=True, model="other") as asked:
        with pytest.raises(ModelUnavailableError, match="and 99980 more") as caught:
            asked.answer(ask())
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("size", [True, -1, 0, "8192", 10**18, 1e300, [4096]])
def test_windows_that_cannot_be_are_unknown(size: Any, tmp_path: Path) -> None:
    listing = {"/v1/models": models({"id": "m", "max_model_len": size})}
    with asked_of(RudeUpstream(GOOD, listing), tmp_path) as asked:
        assert asked.info.context_tokens == 32768
        assert asked.answer(ask()).parts == (TextPart(text="good"),)


def test_a_large_prompt_does_not_wait_for_a_server_that_does_not_read(tmp_path: Path) -> None:
    class Deaf(RudeUpstream):
        """It takes the head and no more."""

        def serve(self, connection: Any) -> None:
            if connection.recv(4) == b"GET ":
                connection.sendall(self.listing["/v1/models"])
            else:
                self.is_over.wait(20)
            connection.close()

    with asked_of(Deaf(GOOD), tmp_path, silence_s=SILENCE_S) as asked, pytest.raises(WorkerLostError, match="silent"):
        asked.answer(ask(text="word " * (3 * MB)))


# -- what is passed on as it comes


def relayed(key: str = "r", *, stream: bool = True) -> GenerateRequest:
    body = {"model": "far", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    return ask(key, original=json.dumps(body).encode())


def named(data: Any) -> bytes:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return b"event: e\ndata: " + text + b"\n\n"


BEGUN = named({"type": "message_start", "message": {"usage": {"input_tokens": 3}}})
ENDED = named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}) + named({"type": "message_stop"})
RELAYED: dict[str, tuple[Script | bytes, type[GatewayError], str]] = {
    "an event that is no JSON": (SSE + BEGUN + named(b'{"type": "mess'), WorkerLostError, "cannot be read"),
    "an event that is a list": (SSE + BEGUN + named([1]), WorkerLostError, "cannot be read"),
    "a usage that is a list": (SSE + named({"type": "message_delta", "usage": [1, 2]}), WorkerLostError, ""),
    "an event without end": (flooded(SSE, b"data: {}\n", 2_000_000), WorkerLostError, "longer than 8 MB"),
    "a line that trickles": (trickled(SSE + BEGUN + b"data: ", b" "), WorkerLostError, "silent"),
    "half an answer": (SSE + BEGUN, WorkerLostError, "without its last event"),
    "a page of HTML": (whole(b"<html>", "text/html"), WorkerLostError, "no message"),
    "an error in a 200": (error_of(type="api_error", message="it broke"), GatewayError, "it broke"),
    "a redirect": (whole(b"", status="302 F", location="http://x/"), ModelUnavailableError, "another address"),
}


@pytest.mark.parametrize("case", RELAYED)
def test_a_lie_that_would_be_passed_on_is_told_and_the_next_answer_comes_as_it_is(case: str, tmp_path: Path) -> None:
    script, expected, words = RELAYED[case]
    listing = {"/v1/models": models({"id": "claude", "type": "model"})}
    upstream = RudeUpstream(script, listing)
    with asked_of(upstream, tmp_path, profile="anthropic", key="secret", silence_s=patience_s(words)) as asked:
        with pytest.raises(expected, match=words or None):
            asked.answer(relayed("bad"))
        be_patient(asked)
        upstream.script = SSE + BEGUN + ENDED
        assert asked.answer(relayed("good")).usage.input_tokens == 3
        assert asked.error is None


@pytest.mark.parametrize("tokens", [-1, "7", 1 << 63, True, None])
def test_counts_that_cannot_be_are_unknown_where_they_are_passed_on(tokens: Any, tmp_path: Path) -> None:
    usage = {"input_tokens": tokens, "output_tokens": tokens, "cache_read_input_tokens": (1 << 63) + 1}
    body = SSE + named({"type": "message_start", "message": {"usage": usage}}) + ENDED
    upstream = RudeUpstream(body, {"/v1/models": models({"id": "claude", "type": "model"})})
    with asked_of(upstream, tmp_path, profile="anthropic") as asked:
        came = asked.answer(relayed())
    assert (came.usage.input_tokens, came.usage.output_tokens) == (None, None)
