"""What a client of Anthropic's API writes reaches a server of that API as it was written, and so does the answer. The
server is a stand-in, which says so; a second gateway is asked in `tests/integration/test_relayed_messages.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelUnavailableError, OverloadedError, PromptTooLongError, WorkerLostError
from shared.events import Finished, Relayed, Started
from shared.request import GenerateRequest, SamplingParams
from tests.support.asked import Asked
from tests.support.upstream_stand_ins import BREAK, AnthropicStandIn
from tests.unit.worker.test_remote import asked_of
from worker.engines.remote.edits import with_missing, with_text

BODY = (
    b'{ "max_tokens": 9,\n "thinking": {"type": "enabled", "budget_tokens": 2048},  "model":"cloud", "stream": true,'
    b' "system": [{"type": "text", "text": "say \\"model\\": \\u00e9", "cache_control": {"type": "ephemeral"}}],'
    b' "messages": [{"role": "user", "content": "the \\"model\\": \\"cloud\\" {["}],'
    b' "context_management": {"edits": [1e400]}}'
)
USAGE = {"input_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 5, "output_tokens": 1}
MESSAGE = {"type": "message", "id": "msg_there", "model": "claude-x", "content": [], "stop_reason": "end_turn"}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "usage": USAGE}},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use", "id": "srv", "new": [1]}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "EqQB"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 12}},
    {"type": "message_stop"},
]


def relayed(key: str = "r", body: bytes = BODY, **more: Any) -> GenerateRequest:
    headers = {"anthropic-beta": "context-1m", "anthropic-version": "2024-01-01"}
    return GenerateRequest(id=key, model="far", messages=(), original=body, original_headers=headers, **more)


def written(asked: Asked, key: str) -> bytes:
    return b"".join(event.data for event in asked.events[key] if isinstance(event, Relayed))


def as_sent(events: list[dict[str, Any]]) -> bytes:
    return b"".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events)


def test_only_the_models_name_is_changed_and_the_stream_comes_back_event_by_event(tmp_path: Path) -> None:
    stand_in = AnthropicStandIn(EVENTS)
    with asked_of(stand_in, tmp_path, profile="anthropic", key="sk-secret") as asked:
        assert asked.info.relays == "anthropic"
        came = asked.answer(relayed())
        assert (came.relayed, came.reason) == (as_sent(EVENTS), "tool_calls")
        assert (came.usage.input_tokens, came.usage.cached_tokens, came.usage.output_tokens) == (100, 90, 12)
        started, first, *rest = asked.events["r"]
        assert isinstance(started, Started)
        assert isinstance(first, Relayed)
        assert first.headers == {
            "anthropic-ratelimit-requests-remaining": "41",
            "x-mlx-gateway-upstream-request-id": "req_there",
        }
        assert [type(each) for each in rest] == [Relayed] * 6 + [Finished]
    assert stand_in.raw == [BODY.replace(b'"model":"cloud"', b'"model":"claude-x"')]
    _, headers, _ = stand_in.asked[-1]
    assert (headers["anthropic-beta"], headers["anthropic-version"]) == ("context-1m", "2024-01-01")
    assert (headers["x-api-key"], headers["x-mlx-gateway-hops"]) == ("sk-secret", "1")


def test_what_the_settings_say_and_the_client_does_not_is_put_before_the_rest(tmp_path: Path) -> None:
    stand_in = AnthropicStandIn(EVENTS)
    with asked_of(stand_in, tmp_path, profile="anthropic") as asked:
        filled = SamplingParams(max_tokens=9, temperature=1.5, top_p=0.5)
        asked.answer(relayed("a", sampling=filled, default_system="be brief"))
        asked.answer(relayed("b", b'{"model": "x", "top_p": 0.9, "messages": []}', default_system="be brief"))
    renamed = BODY.replace(b'"model":"cloud"', b'"model":"claude-x"')
    assert stand_in.raw[0] == b'{"temperature":1.0,' + renamed[1:]
    assert stand_in.raw[1] == b'{"system":"be brief","model": "claude-x", "top_p": 0.9, "messages": []}'


def test_a_whole_message_and_a_count_come_back_as_they_are(tmp_path: Path) -> None:
    stand_in = AnthropicStandIn([], whole={**MESSAGE, "usage": USAGE, "context_management": {"applied": []}})
    body = BODY.replace(b'"stream": true', b'"stream": false')
    with asked_of(stand_in, tmp_path, profile="anthropic") as asked:
        came = asked.answer(relayed(body=body))
        assert came.relayed == json.dumps(stand_in.whole).encode()
        assert (came.usage.input_tokens, came.usage.output_tokens, came.reason) == (100, 1, "stop")
        assert asked.engine.count(relayed()) == 1234
        assert asked.engine.count(GenerateRequest(id="c", model="far", messages=())) is None
    assert stand_in.asked[-1][0] == "/v1/messages/count_tokens"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"type": "rate_limit_error", "message": "This request would exceed your limit"}, OverloadedError),
        (529, {"type": "overloaded_error", "message": "Overloaded"}, OverloadedError),
        (
            400,
            {"type": "invalid_request_error", "message": "prompt is too long: 2 tokens > 1 maximum"},
            PromptTooLongError,
        ),
    ],
)
def test_errors_keep_their_meaning_their_words_and_their_limits(
    tmp_path: Path, status: int, error: dict[str, str], kind: type[Exception]
) -> None:
    stand_in = AnthropicStandIn((status, {"type": "error", "error": error, "request_id": "req_there"}))
    with asked_of(stand_in, tmp_path, profile="anthropic") as asked, pytest.raises(kind) as caught:
        asked.answer(relayed())
    told = caught.value.details["relayed"]  # type: ignore[attr-defined]
    assert (told["status"], json.loads(told["body"])) == (status, stand_in.events[1])
    assert (told["headers"]["retry-after"], told["headers"]["anthropic-ratelimit-requests-remaining"]) == ("7", "41")


def test_a_refused_key_is_told_in_our_words(tmp_path: Path) -> None:
    """It is the worker's: a client that heard of its own would ask its person for another."""
    stand_in = AnthropicStandIn((401, {"type": "error", "error": {"type": "authentication_error", "message": "no"}}))
    with asked_of(stand_in, tmp_path, profile="anthropic") as asked, pytest.raises(ModelUnavailableError) as caught:
        asked.answer(relayed())
    assert "relayed" not in caught.value.details


def test_an_error_within_the_stream_is_passed_on_and_a_stream_that_breaks_is_none(tmp_path: Path) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    stand_in = AnthropicStandIn([EVENTS[0], error])
    with asked_of(stand_in, tmp_path, profile="anthropic") as asked:
        with pytest.raises(OverloadedError) as caught:
            asked.answer(relayed())
        assert caught.value.details["is_told"]
        assert written(asked, "r") == as_sent([EVENTS[0], error])
        stand_in.events = [EVENTS[0], BREAK]
        with pytest.raises(WorkerLostError, match="without its last event"):
            asked.answer(relayed("broken"))


@pytest.mark.parametrize(
    ("data", "changed"),
    [
        (b'{"model":"a","x":{"model":"a"},"model" : "b"}', b'{"model":"Z","x":{"model":"a"},"model" : "Z"}'),
        (b'{"y":["model","a"],"model":7}', b'{"y":["model","a"],"model":7}'),
        (b'{"t":"\\"model\\":\\"a\\"","model":"\\\\"}', b'{"t":"\\"model\\":\\"a\\"","model":"Z"}'),
    ],
)
def test_a_text_is_changed_at_the_outermost_level_alone(data: bytes, changed: bytes) -> None:
    assert with_text(data, "model", "Z") == changed


def test_what_is_missing_is_put_first_and_what_is_there_stays() -> None:
    assert with_missing(b'{"a": {"b": 1}}', {"a": 2, "b": 3, "c": "d"}) == b'{"b":3,"c":"d","a": {"b": 1}}'
    assert with_missing(b"{ }", {"a": 1}) == b'{"a":1 }'
    assert with_missing(b'{"a": 1}', {"a": 2}) == b'{"a": 1}'
