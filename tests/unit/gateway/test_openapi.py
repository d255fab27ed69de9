"""The OpenAPI document says what is served and what the parsers read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from gateway.admin import bodies
from gateway.app import create_app
from gateway.dialects.anthropic import batches as message_batches
from gateway.dialects.fields import FieldError
from gateway.dialects.openai import batches, embeddings, speech
from gateway.dialects.openai.metadata import parse_metadata
from gateway.dialects.openai_responses import conversations
from gateway.dialects.registry import DIALECTS
from gateway.http.docs_page import PAGE
from gateway.http.openapi import build_document, described
from gateway.http.openapi_bodies import BODIES
from gateway.http.routes import ROUTES
from shared.config import Settings
from shared.errors import InvalidRequestError

DOCUMENT = build_document("1")
VALUES: tuple[Any, ...] = ("", "text", -2, 0, 1, 5, 0.5, 1000, True, [], [1], ["a"], [{}], {}, {"a": "b"}, {"a": 1})


def parse_as(dialect: str) -> Any:
    return lambda body: DIALECTS[dialect].parse_request(body, {}, request_id="r")


PARSERS: dict[str, Any] = {
    "ChatCompletionsBody": parse_as("openai_chat"),
    "CompletionsBody": parse_as("openai_completions"),
    "ResponsesBody": parse_as("openai_responses"),
    "MessagesBody": parse_as("anthropic"),
    "EmbeddingsBody": embeddings.parse_vectors,
    "RerankBody": embeddings.parse_ranking,
    "SpeechBody": speech.parse_speech,
    "BatchBody": batches.parse_batch,
    "MessageBatchBody": message_batches.parse_batch,
    "SessionBody": bodies.parse_session,
    "ModelOrderBody": bodies.parse_model_order,
    "PullBody": bodies.parse_pull,
    "SpeedBody": bodies.parse_speed,
    "HubSearchBody": bodies.parse_search,
    "DropBody": bodies.parse_drop,
    "SettingsTextBody": bodies.parse_text,
    "KeyBody": bodies.parse_key,
    "ConversationBody": lambda body: conversations.parse_made(body, "conv_1", 1),
    "MetadataBody": lambda body: parse_metadata(body.get("metadata"), "metadata"),
}


def place_of(error: FieldError | InvalidRequestError) -> str:
    """The first step to the field that was refused."""
    if isinstance(error, FieldError):
        return str(error.path[0])
    return re.split(r"[.\[]", str(error.details.get("param")))[0]


def test_every_operation_is_described_and_nothing_else() -> None:
    served = {
        (route.path.replace("{id:path}", "{id}"), method.lower())
        for route in ROUTES
        for method in route.methods
        if method != "HEAD" and (not route.path.endswith("/") or route.path == "/")
    }
    assert {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods} == served
    assert all(described(route, method) for route in ROUTES for method in route.methods if method != "HEAD")


def test_operations_have_names_of_their_own_and_every_reference_leads_somewhere() -> None:
    names = [op["operationId"] for methods in DOCUMENT["paths"].values() for op in methods.values()]
    assert len(names) == len(set(names))
    for name in re.findall(r"#/components/schemas/(\w+)", orjson.dumps(DOCUMENT).decode()):
        assert name in DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize("name", BODIES)
def test_schemas_are_schemas_and_examples_fit_and_are_parsed(name: str) -> None:
    Draft202012Validator.check_schema(BODIES[name])
    Draft202012Validator(BODIES[name]).validate(BODIES[name]["example"])
    PARSERS[name](BODIES[name]["example"])


@pytest.mark.parametrize("name", BODIES)
def test_what_is_required_is_missed_by_name(name: str) -> None:
    for field in BODIES[name]["required"]:
        body = {key: value for key, value in BODIES[name]["example"].items() if key != field}
        with pytest.raises((FieldError, InvalidRequestError)) as caught:
            PARSERS[name](body)
        assert place_of(caught.value) == field


def wrong_values() -> Iterator[tuple[str, str, Any]]:
    for name, schema in BODIES.items():
        for field, described_as in schema["properties"].items():
            for value in VALUES:
                if not Draft202012Validator(described_as).is_valid(value):
                    yield name, field, value


def test_what_does_not_fit_a_schema_is_refused_at_its_place() -> None:
    """The schemas promise nothing that the parsers do not keep."""
    told = []
    for name, field, value in wrong_values():
        body = {**BODIES[name]["example"], field: value}
        try:
            PARSERS[name](body)
            told.append((name, field, value, "taken"))
        except (FieldError, InvalidRequestError) as error:
            if place_of(error) != field:
                told.append((name, field, value, place_of(error)))
    assert told == []


def test_document_and_page_are_had_without_a_key_and_without_the_net(redis_url: str, tmp_path: Path) -> None:
    app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path, api_key="secret"))

    async def ask(path: str) -> tuple[int, bytes]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "headers": [(b"host", b"gateway")],
            "query_string": b"",
        }
        await app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)

    status, body = asyncio.run(ask("/openapi.json"))
    assert status == 200, body
    assert (status, set(orjson.loads(body)["paths"])) == (200, set(DOCUMENT["paths"]))
    status, body = asyncio.run(ask("/docs"))
    assert (status, body) == (200, PAGE.encode())
    assert not re.search(r"""(src|href)=|https?://""", PAGE), "it loads nothing from anywhere"
    assert asyncio.run(ask("/v1/models"))[0] == 401
