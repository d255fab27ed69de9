"""The OpenAPI document, made of the table of routes and the bodies that the parsers read.

Format: https://spec.openapis.org/oas/v3.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.http.openapi_bodies import BODIES, FORMS
from gateway.http.routes import ROUTES, Route, Work

_NO_BODY: Final = ("GET", "DELETE")

# What is done by a method of a route: in a few words, and the body that it takes (empty: none; a form for files).
_OPERATIONS: Final[Mapping[tuple[Work, str], tuple[str, str]]] = {
    ("models", "GET"): ("Models that can be asked for", ""),
    ("model", "GET"): ("One model, by any name that it answers to", ""),
    ("compact", "POST"): ("A conversation's summary, as one item to go on from", "ResponsesBody"),
    ("conversations", "POST"): ("A conversation, kept for a day from its last turn", "ConversationBody"),
    ("conversation", "GET"): ("A conversation, with /items what was said in it, or one item of it", ""),
    ("conversation", "POST"): ("Change what is written on it, or with /items add to it", "ConversationBody"),
    ("conversation", "DELETE"): ("Forget a conversation, or an item of it", ""),
    ("kept", "GET"): ("A stored response, or with /input_items what it answers", ""),
    ("kept", "DELETE"): ("Forget a stored response", ""),
    ("kept", "POST"): ("With /cancel: stop a response that runs", ""),
    ("stored_completions", "GET"): ("Stored completions", ""),
    ("stored_completion", "GET"): ("A stored completion, or with /messages what it answers", ""),
    ("stored_completion", "POST"): ("Change what is written on a stored completion", "MetadataBody"),
    ("stored_completion", "DELETE"): ("Forget a stored completion", ""),
    ("embeddings", "POST"): ("Vectors of texts", "EmbeddingsBody"),
    ("rerank", "POST"): ("Documents by how relevant they are to a query", "RerankBody"),
    ("transcribe", "POST"): ("What is said in a recording, written down", "sound_form"),
    ("translate", "POST"): ("The same, in English", "sound_form"),
    ("speak", "POST"): ("A text said aloud", "SpeechBody"),
    ("files", "GET"): ("Files", ""),
    ("files", "POST"): ("Upload a file", "form"),
    ("file", "GET"): ("A file, or with /content what it holds", ""),
    ("file", "DELETE"): ("Delete a file", ""),
    ("batches", "GET"): ("Batches", ""),
    ("batches", "POST"): ("Work that nobody waits for, one request a line of a file", "BatchBody"),
    ("batch", "GET"): ("A batch", ""),
    ("batch", "POST"): ("With /cancel: end a batch", ""),
    ("message_batches", "GET"): ("Message batches", ""),
    ("message_batches", "POST"): ("Messages that nobody waits for", "MessageBatchBody"),
    ("message_batch", "GET"): ("A message batch, or with /results how each request ended", ""),
    ("message_batch", "POST"): ("With /cancel: end a message batch", ""),
    ("message_batch", "DELETE"): ("Delete a message batch that has ended", ""),
    ("administer", "GET"): ("What an administrator may see", ""),
    ("administer", "POST"): ("What an administrator may do to the fleet", ""),
    ("health", "GET"): ("Whether the process lives", ""),
    ("ready", "GET"): ("Whether a model can answer", ""),
    ("status", "GET"): ("Models, workers, hosts and gateways", ""),
    ("metrics", "GET"): ("Metrics of this gateway, for Prometheus", ""),
    ("host_metrics", "GET"): ("Metrics of a host and its workers", ""),
    ("targets", "GET"): ("Where Prometheus finds them", ""),
    ("greeting", "GET"): ("A greeting", ""),
    ("home", "GET"): ("The console for browsers, a greeting for others", ""),
    ("console", "GET"): ("What the console's page is made of", ""),
    ("openapi", "GET"): ("This document", ""),
    ("docs", "GET"): ("This document as a page", ""),
}
# What takes a prompt, by dialect.
_PROMPTED: Final[Mapping[tuple[Work, str], tuple[str, str]]] = {
    ("generate", "anthropic"): ("A message, whole or streamed", "MessagesBody"),
    ("generate", "openai_chat"): ("A chat completion, whole or streamed", "ChatCompletionsBody"),
    ("generate", "openai_completions"): ("A raw prompt, gone on with", "CompletionsBody"),
    ("respond", "openai_responses"): ("A response, whole or streamed, or in the background", "ResponsesBody"),
    ("count", "anthropic"): ("The tokens of a message's prompt", "MessagesBody"),
    ("count", "openai_responses"): ("The tokens of a response's prompt", "ResponsesBody"),
}

# Of the console's API, by the route's name.
_CONSOLE: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("api_session", "GET"): ("Whether a key is needed, and who is signed in", ""),
    ("api_session", "POST"): ("Sign in with a key: a cookie for twelve hours", "SessionBody"),
    ("api_session", "DELETE"): ("Sign out", ""),
    ("api_events", "GET"): ("What changes, of `?topics=a,b`: a snapshot of each, then numbered merge patches", ""),
    ("api_overview", "GET"): ("Hosts, workers, and what runs and waits at this gateway", ""),
    ("api_requests", "GET"): ("The last thousand requests", ""),
    ("api_request", "GET"): ("One of them in full: its attempts, why each went where it did, tokens, seconds", ""),
    ("api_request", "POST"): ("With /cancel: end a request that runs or waits", ""),
    ("api_models", "GET"): ("Models with their state on every host, and what they can do", ""),
    ("api_models", "POST"): ("Load or unload a model", "ModelOrderBody"),
    ("api_local", "GET"): ("Models that lie on this gateway's disk", ""),
    ("api_local_model", "DELETE"): ("Delete one that is not served", ""),
    ("api_hub", "POST"): ("Search the hub for models by words of their names", "HubSearchBody"),
    ("api_pulls", "GET"): ("What is fetched from the hub, and how far", ""),
    ("api_pulls", "POST"): ("Fetch a model, or with `check` say only what that is and whether it fits", "PullBody"),
    ("api_pull", "DELETE"): ("Fetch it no further", ""),
    ("api_speed", "GET"): ("The last speed test of each model: its state, and the points of its curves", ""),
    ("api_speed", "POST"): ("Test a model's speed, or with `check` say only what that would cost", "SpeedBody"),
    ("api_speed_test", "DELETE"): ("Test it no further: what was found stays", ""),
    ("api_routing", "GET"): ("Tiers, aliases, fallbacks, profiles, remotes, and the files that say so", ""),
    ("api_routing_file", "GET"): ("A settings file as it is, with its tag", ""),
    ("api_routing_file", "PUT"): ("Write it, if it is still what `If-Match` says", "SettingsTextBody"),
    ("api_routing_file", "POST"): (
        "With /check: what would change and what is wrong; with /undo: as before",
        "SettingsTextBody",
    ),
    ("api_names", "GET"): ("What `?name=` stands for now", ""),
    ("api_cache", "GET"): ("Prefixes kept by each worker, and sessions by what was cached of them", ""),
    ("api_cache", "POST"): ("Drop pieces of what a worker keeps, or all that is a session's alone", "DropBody"),
    ("api_cache_tree", "GET"): ("The tree of kept prefixes of each worker: tokens, bytes, sessions", ""),
    ("api_keys", "GET"): ("Keys, never themselves, with today's use", ""),
    ("api_keys", "POST"): ("Make a key, which is told this once", "KeyBody"),
    ("api_key", "DELETE"): ("Revoke a key", ""),
    ("api_hosts", "GET"): ("Hosts that joined or live", ""),
    ("api_hosts", "POST"): ("Make a code with which one more Mac joins: the line to type there", ""),
    ("api_host", "DELETE"): ("Lock out a host that joined", ""),
    ("api_about", "GET"): ("This gateway's release, settings and where they come from", ""),
}


def build_document(version: str) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        if route.path.endswith("/") and route.path != "/":
            continue  # a spelling of the path without it
        place = paths.setdefault(route.path.replace("{id:path}", "{id}"), {})
        for method in route.methods:
            if (operation := _operation(route, method)) is not None:
                place[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlx-gateway",
            "version": version,
            "description": "One URL in front of every model on every Mac you own.",
        },
        "paths": paths,
        "components": {
            "schemas": {**BODIES, "Error": _ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "object", "required": ["type", "message"], "properties": {"message": {"type": "string"}}}
    },
}


def described(route: Route, method: str) -> tuple[str, str] | None:
    """(what it does, its body), None for a method that needs no words."""
    if method == "HEAD":
        return None
    if route.work == "api":
        return _CONSOLE.get((route.name, method))
    return _PROMPTED.get((route.work, route.dialect)) or _OPERATIONS.get((route.work, method))


def _operation(route: Route, method: str) -> dict[str, Any] | None:
    found = described(route, method)
    if found is None:
        return None
    summary, body = found
    name = route.path.strip("/").replace("{id:path}", "id").replace("/", "_") or "root"
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": f"{method.lower()}_{name}",
        "tags": [route.dialect or "gateway"],
        "responses": {"200": {"description": "The answer"}, "default": _refusal(route)},
        "security": [] if method in route.keyless else [{"bearer": []}, {"key": []}],
    }
    if route.path.endswith("{id:path}"):
        operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    if method not in _NO_BODY and body:
        operation["requestBody"] = _request_body(body)
    return operation


def _refusal(route: Route) -> dict[str, Any]:
    shape = {"$ref": "#/components/schemas/Error"}
    return {"description": "An error, in its vendor's shape", "content": {"application/json": {"schema": shape}}}


def _request_body(name: str) -> dict[str, Any]:
    if name in FORMS:
        schema = FORMS[name]
        return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    content = {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": BODIES[name]["example"]}
    return {"required": True, "content": {"application/json": content}}
