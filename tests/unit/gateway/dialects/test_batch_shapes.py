"""Batches and files in the shapes of both vendors, as their packages read them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from openai.types import Batch as OpenAIBatch
from openai.types import FileObject

from gateway.dialects.anthropic import batches as anthropic_batches
from gateway.dialects.anthropic import files as anthropic_files
from gateway.dialects.batch_values import Batch, Ended, Item, StoredFile
from gateway.dialects.fields import FieldError
from gateway.dialects.openai import batches as openai_batches
from gateway.dialects.openai import files as openai_files
from shared.errors import InvalidRequestError

PATH = "/v1/chat/completions"


def line(custom_id: str = "a", **fields: Any) -> bytes:
    return orjson.dumps({"custom_id": custom_id, "method": "POST", "url": PATH, "body": {"model": "m"}} | fields)


def batch(**fields: Any) -> Batch:
    known: dict[str, Any] = {"id": "batch_1", "vendor": "openai", "path": PATH, "made_s": 10.0, "expires_s": 99.0}
    return Batch(**known | {"counts": {"": 1, "succeeded": 2, "errored": 1}} | fields)


def test_the_lines_of_a_file_are_requests() -> None:
    items, faults = openai_batches.parse_lines(line("a") + b"\n\n" + line("b", body={"stream": True}) + b"\r\n", PATH)
    assert faults == []
    assert items == [Item(custom_id="a", body=b'{"model":"m"}'), Item(custom_id="b", body=b'{"stream":false}')]


@pytest.mark.parametrize(
    ("content", "at", "param"),
    [
        (b"", None, None),
        (line() + b"\n{", 2, None),
        (line() + b"\n" + line(), 2, "custom_id"),
        (line(method="GET"), 1, "method"),
        (line(url="/v1/completions"), 1, "url"),
        (line(body=[]), 1, "body"),
        (line(custom_id=""), 1, "custom_id"),
        (b"[]", 1, None),
    ],
)
def test_a_file_with_a_fault_is_no_batch_and_says_where(content: bytes, at: int | None, param: str | None) -> None:
    items, faults = openai_batches.parse_lines(content, PATH)
    assert items == []
    assert [(fault["line"], fault["param"]) for fault in faults] == [(at, param)]
    shown = OpenAIBatch.model_validate(openai_batches.render_batch(batch(note={"faults": faults}, ended_s=10.0)))
    assert (shown.status, shown.failed_at) == ("failed", 10)
    assert shown.errors is not None


def test_a_file_of_too_many_requests_or_faults_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_batches, "_MOST_ITEMS", 3)
    several = b"\n".join(line(str(number)) for number in range(4))
    assert [item.custom_id for item in openai_batches.parse_lines(several[: -len(line("3"))], PATH)[0]] == [
        "0",
        "1",
        "2",
    ]
    for content in (several, several + b"\n{"):
        items, (fault,) = openai_batches.parse_lines(content, PATH)
        assert (items, fault["code"]) == ([], "too_many_requests")
    items, faults = openai_batches.parse_lines(b"null\n" * 5000, PATH)
    assert (items, [fault["line"] for fault in faults]) == ([], list(range(1, 101)))


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "endpoint"),
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"endpoint": PATH, "completion_window": "1h"}, "completion_window"),
        ({"endpoint": PATH, "completion_window": "24h"}, "input_file_id"),
        ({"endpoint": PATH, "completion_window": "24h", "input_file_id": "f", "metadata": {"a": 1}}, "metadata"),
    ],
)
def test_what_is_no_batch_is_refused(body: dict[str, Any], path: str) -> None:
    with pytest.raises(FieldError) as caught:
        openai_batches.parse_batch(body)
    assert caught.value.path[0] == path


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "in_progress"),
        ({"cancelled_s": 11.0}, "cancelling"),
        ({"cancelled_s": 11.0, "ended_s": 12.0}, "cancelled"),
        ({"ended_s": 12.0, "counts": {"succeeded": 3}}, "completed"),
        ({"ended_s": 12.0, "counts": {"expired": 3}}, "expired"),
    ],
)
def test_where_a_batch_stands(fields: dict[str, Any], status: str) -> None:
    shown = OpenAIBatch.model_validate(openai_batches.render_batch(batch(**fields)))
    assert shown.status == status
    assert shown.request_counts is not None
    assert shown.request_counts.total == sum(batch(**fields).counts.values())


ENDINGS = [
    Ended(custom_id="a", outcome="succeeded", status=200, request_id="r1", answer=b'{"id":"x"}'),
    Ended(custom_id="b", outcome="errored", status=400, request_id="r2", answer=b'{"error":{}}'),
    Ended(custom_id="c", outcome="canceled"),
    Ended(custom_id="d", outcome="expired"),
]


def test_every_ending_is_a_line() -> None:
    lines = [orjson.loads(text) for text in openai_batches.render_lines(batch(), ENDINGS)]
    assert [shown["custom_id"] for shown in lines] == ["a", "b", "c", "d"]
    assert lines[0]["response"] == {"status_code": 200, "request_id": "r1", "body": {"id": "x"}}
    assert lines[1]["response"]["status_code"] == 400
    assert [shown["error"] and shown["error"]["code"] for shown in lines] == [
        None,
        None,
        "batch_cancelled",
        "batch_expired",
    ]
    assert len({shown["id"] for shown in lines}) == 4


def test_message_batches_are_read_by_the_package() -> None:
    items = anthropic_batches.parse_batch({"requests": [{"custom_id": "a", "params": {"model": "m", "stream": True}}]})
    assert items == [Item(custom_id="a", body=b'{"model":"m","stream":false}')]
    waiting = MessageBatch.model_validate(anthropic_batches.render_batch(batch(), "http://x/results"))
    assert (waiting.processing_status, waiting.results_url, waiting.request_counts.processing) == (
        "in_progress",
        None,
        1,
    )
    done = MessageBatch.model_validate(anthropic_batches.render_batch(batch(ended_s=12.0), "http://x/results"))
    assert (done.processing_status, done.results_url) == ("ended", "http://x/results")
    lines = [orjson.loads(text) for text in anthropic_batches.render_lines(ENDINGS[2:])]
    assert [MessageBatchIndividualResponse.model_validate(shown).result.type for shown in lines] == [
        "canceled",
        "expired",
    ]


@pytest.mark.parametrize(
    "requests",
    [None, [], [{}], [{"custom_id": "a"}], [{"custom_id": "a", "params": {}}, {"custom_id": "a", "params": {}}]],
)
def test_what_is_no_message_batch_is_refused_with_its_place(requests: Any) -> None:
    with pytest.raises(FieldError) as caught:
        anthropic_batches.parse_batch({"requests": requests})
    assert caught.value.path[0] == "requests"


FILE = StoredFile(
    id="f1", vendor="openai", name="n.jsonl", purpose="batch", media_type="text/plain", size_bytes=5, made_s=7.0
)


def test_files_are_read_by_both_packages() -> None:
    assert FileObject.model_validate(openai_files.render_file(FILE)).bytes == 5
    page = openai_files.render_files([FILE], {"purpose": "batch"})
    assert [FileObject.model_validate(shown).id for shown in page["data"]] == ["f1"]
    assert openai_files.render_files([FILE], {"purpose": "vision"})["data"] == []
    assert anthropic_files.render_file(FILE)["mime_type"] == "text/plain"
    assert anthropic_files.render_files([FILE], {})["data"][0]["size_bytes"] == 5


@pytest.mark.parametrize("form", [{}, {"purpose": "nonsense"}, {"purpose": "batch", "expires_after[seconds]": "5"}])
def test_an_upload_that_cannot_be_is_refused(form: dict[str, str]) -> None:
    with pytest.raises(FieldError):
        openai_files.parse_upload(form)


def test_pages_of_one_vendor_begin_and_end_at_its_cursors() -> None:
    batches = [batch(id=f"b{number}") for number in range(5)]
    urls = {one.id: "u" for one in batches}

    def ids(**query: str) -> tuple[list[str], bool]:
        page = anthropic_batches.render_batches(batches, query, urls)
        return [shown["id"] for shown in page["data"]], page["has_more"]

    assert ids(limit="2") == (["b4", "b3"], True)
    assert ids(after_id="b3", limit="2") == (["b2", "b1"], True)
    assert ids(before_id="b2") == (["b4", "b3"], False)
    with pytest.raises(InvalidRequestError):
        ids(after_id="nobody")
