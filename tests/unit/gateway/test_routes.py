"""The one table of routes says the same to everybody who reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import starlette.routing

from gateway.app import create_app
from gateway.dialects.registry import COUNTING_DIALECTS, DIALECTS
from gateway.http.routes import ROUTES, find_route, nothing_at, served_path, spoken_at
from shared.config import Settings


def test_the_application_serves_what_the_table_says_and_nothing_else(redis_url: str, tmp_path: Path) -> None:
    app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path))
    served = {(route.path, method) for route in app.routes for method in route.methods}  # type: ignore[attr-defined]
    assert served == {(route.path, method) for route in ROUTES for method in route.methods}
    assert all(isinstance(route, starlette.routing.Route) for route in app.routes)


def test_work_that_is_parsed_has_a_dialect_that_can() -> None:
    for route in ROUTES:
        if route.work == "generate":
            assert route.dialect in DIALECTS
        if route.work == "count":
            assert route.dialect in COUNTING_DIALECTS


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/messages", "messages"),
        ("/v1/responses", "responses"),
        ("/v1/responses/input_tokens", "input_tokens"),
        ("/anthropic/v1/messages/count_tokens", "count_tokens"),
        ("/v1/models/", "models"),
        ("/v1/models/folder/of a model", "model"),
        ("/anthropic/v1/models/a", "model"),
        ("/", "greeting"),
        ("/api/hello", "greeting"),
        ("/api/overview", "api_overview"),
        ("/api/requests/req_1/cancel", "api_request"),
        ("/console/1/app.js", "console"),
    ],
)
def test_a_path_is_found(path: str, name: str) -> None:
    route = find_route(path)
    assert route is not None
    assert route.name == name


@pytest.mark.parametrize("path", ["/v1", "/v1/message", "/v1/messages/", "/v1/modelsx", "/healthy"])
def test_what_only_looks_like_a_path_is_not(path: str) -> None:
    assert find_route(path) is None


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/responses/resp_1", "/v1/responses/resp_1"),
        ("/models", "/v1/models"),
        ("/models/a/b", "/v1/models/a/b"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/health", "/health"),
        ("/v1/models", "/v1/models"),
        ("/v1/v1/models", "/v1/v1/models"),
        ("/", "/"),
        ("/nothing", "/nothing"),
    ],
)
def test_paths_without_the_version_are_served(path: str, served: str) -> None:
    assert served_path(path) == served


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/moderations", "moderation"),
        ("/moderations", "moderation"),
        ("/v1/audio/voices", "speech"),
        ("/v1/images/generations", "images"),
        ("/v1/fine_tuning/jobs", "trained"),
        ("/v1/complete", "old text completions"),
        ("/v1/vector_stores/vs_1", "searched"),
    ],
)
def test_what_cannot_be_says_so_and_what_there_is(path: str, words: str) -> None:
    text = nothing_at(path)
    assert words in text
    assert "/v1/chat/completions, /v1/completions" in text
    assert "/metrics" not in text


def test_what_merely_begins_alike_is_not_explained_away() -> None:
    assert "old text" not in nothing_at("/v1/completer")


def test_a_path_that_is_not_served_may_still_be_one_vendors() -> None:
    assert spoken_at("/v1/embeddings") == "openai_chat"
    assert spoken_at("/anthropic/v1/nothing") == "anthropic"
    assert spoken_at("/v1/models") == ""
