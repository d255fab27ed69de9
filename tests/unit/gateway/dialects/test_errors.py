"""Every error has a status and a shape in every dialect, and tells SDKs whether to try again."""

from __future__ import annotations

import anthropic
import httpx2
import openai
import orjson
import pytest

from gateway.dialects.registry import DIALECTS
from shared.errors import (
    ERROR_CODES,
    DeadlineExceededError,
    GatewayError,
    InternalError,
    InvalidRequestError,
    MaxTokensTooLargeError,
    ModelNotFoundError,
    ModelUnavailableError,
    OverloadedError,
    PromptTooLongError,
    build_error,
)

NAMES = sorted(DIALECTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_every_code_has_a_status_in_every_dialect(name: str, code: str) -> None:
    rendered = DIALECTS[name].render_error(build_error(code, "the reason"), request_id="r1")
    assert 400 <= rendered.status < 600
    assert rendered.body["error"]["message"] == "the reason"
    assert rendered.body["error"]["type"]
    assert orjson.loads(orjson.dumps(rendered.body)) == rendered.body
    assert all(isinstance(value, str) for value in rendered.headers.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_client_errors_are_never_server_errors(name: str, code: str) -> None:
    error = build_error(code, "x")
    status = DIALECTS[name].render_error(error, request_id="r1").status
    if isinstance(error, InvalidRequestError):
        assert status in (400, 404, 405, 408, 413, 426, 431)
    if error.retryable:
        assert status >= 500 or status == 429


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_whatever_passes_says_when_to_ask_again(name: str, code: str) -> None:
    """Codex tries 30 times within 25 s where it is not told."""
    error = build_error(code, "x")
    rendered = DIALECTS[name].render_error(error, request_id="r1")
    passes = error.retryable or rendered.status in (429, 503, 529)
    assert ("retry-after" in rendered.headers) == passes


@pytest.mark.parametrize(
    ("code", "anthropic_error", "openai_error"),
    [
        ("invalid_request", (400, "invalid_request_error"), (400, "invalid_request_error", None)),
        ("prompt_too_long", (400, "invalid_request_error"), (400, "invalid_request_error", "context_length_exceeded")),
        (
            "max_tokens_too_large",
            (400, "invalid_request_error"),
            (400, "invalid_request_error", "context_length_exceeded"),
        ),
        ("request_too_large", (413, "request_too_large"), (413, "invalid_request_error", "request_too_large")),
        ("authentication", (401, "authentication_error"), (401, "invalid_request_error", "invalid_api_key")),
        ("model_not_found", (404, "not_found_error"), (404, "invalid_request_error", "model_not_found")),
        ("overloaded", (529, "overloaded_error"), (503, "server_error", "overloaded")),
        ("broker_unavailable", (529, "overloaded_error"), (503, "server_error", "broker_unavailable")),
        ("worker_lost", (529, "overloaded_error"), (503, "server_error", "worker_lost")),
        ("deadline_exceeded", (504, "timeout_error"), (504, "server_error", "deadline_exceeded")),
        ("internal", (500, "api_error"), (500, "server_error", "internal")),
    ],
)
def test_statuses_and_types(
    code: str, anthropic_error: tuple[int, str], openai_error: tuple[int, str, str | None]
) -> None:
    error = build_error(code, "x")
    rendered = DIALECTS["anthropic"].render_error(error, request_id="r1")
    assert (rendered.status, rendered.body["error"]["type"]) == anthropic_error
    rendered = DIALECTS["openai_chat"].render_error(error, request_id="r1")
    assert (rendered.status, rendered.body["error"]["type"], rendered.body["error"]["code"]) == openai_error


def test_the_anthropic_envelope() -> None:
    rendered = DIALECTS["anthropic"].render_error(InvalidRequestError("a: b", param="a"), request_id="r1")
    assert rendered.body == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "a: b"},
        "request_id": "r1",
    }


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
def test_a_thread_is_refused_with_the_code_on_which_the_sdks_send_everything(thread: dict[str, str]) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "thread": thread}
    with pytest.raises(InvalidRequestError) as caught:
        DIALECTS["anthropic"].parse_request(body, {}, request_id="r1")
    rendered = DIALECTS["anthropic"].render_error(caught.value, request_id="r1")
    assert rendered.status == 400
    assert rendered.body["error"]["details"] == {"error_code": "thread_unsupported_request"}


def test_the_openai_shape_names_the_field() -> None:
    def shape(error: GatewayError) -> object:
        return DIALECTS["openai_chat"].render_error(error, request_id="r1").body

    assert shape(InvalidRequestError("a: b", param="a")) == {
        "error": {"message": "a: b", "type": "invalid_request_error", "param": "a", "code": None}
    }
    assert shape(ModelNotFoundError("no such model"))["error"]["param"] == "model"  # type: ignore[index]


@pytest.mark.parametrize(
    ("error", "chat", "responses"),
    [
        (PromptTooLongError.of(9, 8), "messages", "input"),
        (MaxTokensTooLargeError.of(9, 8, 7), "max_tokens", "max_output_tokens"),
        (InvalidRequestError("x", param="messages"), "messages", "input"),
        (InvalidRequestError("x", param="input[0].content"), "input[0].content", "input[0].content"),
        (InvalidRequestError("x", param="tools"), "tools", "tools"),
        (InvalidRequestError("x", param=["odd"]), None, None),
        (InvalidRequestError("x"), None, None),
    ],
)
def test_a_field_is_named_as_the_clients_own_api_does(
    error: GatewayError, chat: str | None, responses: str | None
) -> None:
    for name, param in (("openai_chat", chat), ("openai_responses", responses)):
        assert DIALECTS[name].render_error(error, request_id="r1").body["error"]["param"] == param


def test_the_wordings_that_claude_code_acts_on_pass_unchanged() -> None:
    for error in (PromptTooLongError.of(70000, 65536), MaxTokensTooLargeError.of(40000, 32000, 65536)):
        rendered = DIALECTS["anthropic"].render_error(error, request_id="r1")
        assert rendered.status == 400
        assert rendered.body["error"]["message"] == error.message
    assert PromptTooLongError.of(70000, 65536).message == "prompt is too long: 70000 tokens > 65536 maximum"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (OverloadedError("busy", retry_after_s=2.1), {"x-should-retry": "true", "retry-after": "3"}),
        (OverloadedError("busy", retry_after_s=0.0), {"x-should-retry": "true", "retry-after": "1"}),
        (OverloadedError("busy", retry_after_s=float("inf")), {"x-should-retry": "true", "retry-after": "2"}),
        (DeadlineExceededError("late"), {"x-should-retry": "true", "retry-after": "2"}),
        (InternalError("bug"), {"x-should-retry": "false"}),
        (ModelUnavailableError("no weights"), {"x-should-retry": "false", "retry-after": "2"}),
        (InvalidRequestError("bad"), {}),
    ],
)
def test_retry_headers(name: str, error: GatewayError, headers: dict[str, str]) -> None:
    assert DIALECTS[name].render_error(error, request_id="r1").headers == headers


def _requests_sent(name: str, error: GatewayError) -> tuple[int, Exception]:
    """How often the official SDK tries when every answer is this error."""
    rendered = DIALECTS[name].render_error(error, request_id="r1")
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        headers = dict(rendered.headers) | {"retry-after-ms": "1"}
        return httpx2.Response(rendered.status, json=rendered.body, headers=headers)

    with pytest.raises((anthropic.APIStatusError, openai.APIStatusError)) as caught:
        _ask(name, httpx2.MockTransport(answer))
    return len(sent), caught.value


def _ask(name: str, transport: httpx2.MockTransport) -> None:
    messages = [{"role": "user", "content": "hi"}]
    if name == "anthropic":
        http = anthropic.DefaultHttpxClient(transport=transport)
        client = anthropic.Anthropic(api_key="k", base_url="http://test", http_client=http, max_retries=2)
        client.messages.create(model="m", max_tokens=9, messages=messages)
    else:
        other = openai.DefaultHttpxClient(transport=transport)
        chat = openai.OpenAI(api_key="k", base_url="http://test", http_client=other, max_retries=2)
        chat.chat.completions.create(model="m", messages=messages)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("error", "tries"),
    [(OverloadedError("busy"), 3), (ModelUnavailableError("no weights"), 1), (InternalError("bug"), 1)],
)
def test_the_sdks_try_again_only_where_it_can_help(name: str, error: GatewayError, tries: int) -> None:
    sent, raised = _requests_sent(name, error)
    assert sent == tries
    assert error.message in str(raised)
