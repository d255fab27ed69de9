"""Every path that is served: what is done there, in whose dialect, and whether it takes a key.

The application, the access log, the metrics and the check of keys all read this one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Work = Literal[
    "generate",
    "respond",
    "count",
    "models",
    "model",
    "health",
    "ready",
    "status",
    "metrics",
    "host_metrics",
    "targets",
    "greeting",
    "kept",
    "compact",
    "conversations",
    "conversation",
    "stored_completions",
    "stored_completion",
    "openapi",
    "docs",
    "embeddings",
    "rerank",
    "transcribe",
    "translate",
    "speak",
    "files",
    "file",
    "batches",
    "batch",
    "message_batches",
    "message_batch",
    "administer",
    "home",
    "console",
    "api",
]

_POST, _READ = ("POST",), ("GET", "HEAD")
_ALL = ("GET", "HEAD", "DELETE", "POST")
_ID = "/{id:path}"  # a model's id may be a folder's path


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`path` may end in a parameter (Starlette's notation). `name` is what log and metrics call it. `dialect` is empty
    where the client's headers say which. `keyless` are the methods that need no key."""

    path: str
    work: Work
    name: str
    methods: tuple[str, ...] = _READ
    dialect: str = ""
    keyless: tuple[str, ...] = ()


def _anthropic(path: str, work: Work, name: str, methods: tuple[str, ...] = _POST) -> Route:
    return Route(path=path, work=work, name=name, methods=methods, dialect="anthropic")


def _chat(path: str, work: Work, name: str) -> Route:
    return Route(path=path, work=work, name=name, methods=_POST, dialect="openai_chat")


def _responses(path: str, work: Work, name: str, methods: tuple[str, ...] = _POST) -> Route:
    return Route(path=path, work=work, name=name, methods=methods, dialect="openai_responses")


def _message_batches(base: str) -> tuple[Route, ...]:
    return (
        _anthropic(f"{base}/messages/batches", "message_batches", "message_batches", ("GET", "HEAD", "POST")),
        _anthropic(f"{base}/messages/batches{_ID}", "message_batch", "message_batch", _ALL),
    )


def _api(path: str, name: str, *more: str, keyless: tuple[str, ...] = ()) -> Route:
    return Route(path=f"/api/{path}", work="api", name=f"api_{name}", methods=(*_READ, *more), keyless=keyless)


def _doomed(path: str, name: str) -> Route:
    return Route(path=f"/api/{path}{_ID}", work="api", name=f"api_{name}", methods=("DELETE",))


_API: Final = (
    _api("session", "session", "POST", "DELETE", keyless=("GET", "HEAD", "POST", "DELETE")),
    _api("events", "events"),
    _api("overview", "overview"),
    _api("requests", "requests"),
    _api("requests" + _ID, "request", "POST"),
    _api("models", "models", "POST"),
    _api("models/local", "local"),
    _doomed("models/local", "local_model"),
    Route(path="/api/models/hub", work="api", name="api_hub", methods=("POST",)),
    _api("models/pulls", "pulls", "POST"),
    _doomed("models/pulls", "pull"),
    _api("models/speed", "speed", "POST"),
    _doomed("models/speed", "speed_test"),
    _api("routing", "routing"),
    _api("routing" + _ID, "routing_file", "PUT", "POST"),
    _api("names", "names"),
    _api("cache", "cache", "POST"),
    _api("cache/tree", "cache_tree"),
    _api("keys", "keys", "POST"),
    _doomed("keys", "key"),
    _api("hosts", "hosts", "POST"),
    _doomed("hosts", "host"),
    _api("about", "about"),
)

ROUTES: Final = (
    *_message_batches("/v1"),
    *_message_batches("/anthropic/v1"),
    _anthropic("/anthropic/v1/files", "files", "files", ("GET", "HEAD", "POST")),
    _anthropic("/anthropic/v1/files" + _ID, "file", "file", ("GET", "HEAD", "DELETE")),
    Route(path="/v1/files", work="files", name="files", methods=("GET", "HEAD", "POST")),
    Route(path="/v1/files" + _ID, work="file", name="file", methods=("GET", "HEAD", "DELETE")),
    _chat("/v1/embeddings", "embeddings", "embeddings"),
    _chat("/v1/rerank", "rerank", "rerank"),
    _chat("/v1/audio/transcriptions", "transcribe", "transcriptions"),
    _chat("/v1/audio/translations", "translate", "translations"),
    _chat("/v1/audio/speech", "speak", "speech"),
    Route(path="/v1/batches", work="batches", name="batches", methods=("GET", "HEAD", "POST"), dialect="openai_chat"),
    Route(path="/v1/batches" + _ID, work="batch", name="batch", methods=("GET", "HEAD", "POST"), dialect="openai_chat"),
    _anthropic("/v1/messages", "generate", "messages"),
    _anthropic("/v1/messages/count_tokens", "count", "count_tokens"),
    _anthropic("/anthropic/v1/messages", "generate", "messages"),
    _anthropic("/anthropic/v1/messages/count_tokens", "count", "count_tokens"),
    _anthropic("/anthropic/v1/models", "models", "models", _READ),
    _anthropic("/anthropic/v1/models/", "models", "models", _READ),  # and not the model with an empty id
    _anthropic("/anthropic/v1/models" + _ID, "model", "model", _READ),
    Route(path="/v1/chat/completions", work="generate", name="chat_completions", methods=_POST, dialect="openai_chat"),
    Route(path="/v1/chat/completions", work="stored_completions", name="stored_completions", dialect="openai_chat"),
    Route(
        path="/v1/chat/completions" + _ID,
        work="stored_completion",
        name="stored_completion",
        methods=_ALL,
        dialect="openai_chat",
    ),
    Route(path="/v1/completions", work="generate", name="completions", methods=_POST, dialect="openai_completions"),
    _responses("/v1/responses", "respond", "responses"),
    _responses("/v1/responses/input_tokens", "count", "input_tokens"),
    _responses("/v1/responses/compact", "compact", "compact"),
    # One response, its /input_items and its /cancel.
    _responses("/v1/responses" + _ID, "kept", "response", _ALL),
    _responses("/v1/conversations", "conversations", "conversations"),
    # One conversation, its /items, and one of those.
    _responses("/v1/conversations" + _ID, "conversation", "conversation", _ALL),
    Route(path="/v1/models", work="models", name="models"),
    Route(path="/v1/models/", work="models", name="models"),
    Route(path="/v1/models" + _ID, work="model", name="model"),
    # What describes the API to who has no key yet.
    Route(path="/openapi.json", work="openapi", name="openapi", keyless=_READ),
    Route(path="/docs", work="docs", name="docs", keyless=_READ),
    # What tells whether a process lives; whoever watches it has no key.
    Route(path="/health", work="health", name="health", keyless=_READ),
    Route(path="/ready", work="ready", name="ready", keyless=_READ),
    Route(path="/status", work="status", name="status"),
    Route(path="/metrics", work="metrics", name="metrics"),
    Route(path="/metrics/hosts", work="host_metrics", name="host_metrics"),
    Route(path="/metrics/hosts" + _ID, work="host_metrics", name="host_metrics"),
    Route(path="/metrics/targets", work="targets", name="targets"),
    # What is done to the fleet: for administrators' keys.
    Route(path="/admin" + _ID, work="administer", name="admin", methods=("GET", "HEAD", "POST")),
    # The console, which holds nothing of anybody's, and what it is made of: what it and scripts read and change.
    Route(path="/console" + _ID, work="console", name="console", keyless=_READ),
    *_API,
    # The console for browsers; a greeting for all others.
    Route(path="/", work="home", name="greeting", keyless=("HEAD",)),
    # What clients ask with HEAD before they begin, without a key: Claude Code and its older releases.
    *(
        Route(path=path, work="greeting", name="greeting", keyless=("HEAD",))
        for path in ("/api/hello", "/anthropic", "/anthropic/api/hello")
    ),
)

# Whose clients ask below these, also where there is nothing.
_SPOKEN_BELOW: Final = {
    "/anthropic/": "anthropic",
    "/api/": "openai_chat",
    "/v1/messages": "anthropic",
    "/v1/chat/": "openai_chat",
    "/v1/completions": "openai_completions",
    "/v1/responses": "openai_responses",
    "/v1/conversations": "openai_responses",
    "/v1/embeddings": "openai_chat",
    "/v1/rerank": "openai_chat",
    "/v1/audio": "openai_chat",
    "/v1/batches": "openai_chat",
}

# Of several on one path, each with methods of its own, the first.
_EXACT: Final = {route.path: route for route in reversed(ROUTES) if not route.path.endswith(_ID)}
_BELOW: Final[Mapping[str, Route]] = {
    route.path.removesuffix("{id:path}"): route for route in ROUTES if route.path.endswith(_ID)
}


def find_route(path: str) -> Route | None:
    """The route of a normal path; None where there is nothing."""
    route = _EXACT.get(path)
    return route or next((route for beginning, route in _BELOW.items() if path.startswith(beginning)), None)


# What a vendor's clients may ask for that nobody here can do, by where it begins.
_NOT_SERVED: Final = {
    "/v1/moderations": "moderation needs a model of the vendor's",
    "/v1/audio": "there are transcriptions, translations and speech",
    "/v1/images": "images are not generated",
    "/v1/videos": "videos are not generated",
    "/v1/fine_tuning": "models are not trained here",
    "/v1/assistants": "assistants are the vendor's; there is the Responses API",
    "/v1/threads": "threads are the vendor's; there is the Responses API",
    "/v1/vector_stores": "files are not searched here",
    "/v1/realtime": "realtime sessions are not served",
    "/v1/uploads": "files are sent whole, to /v1/files",
    "/v1/containers": "no code is run here",
    "/v1/evals": "evaluations are not run here",
    "/v1/complete": "the old text completions are not served",
}


def served_path(path: str) -> str:
    """A normal path as it is served: clients whose base URL lacks the version leave it out."""
    versioned = f"/v1{path}"
    return versioned if find_route(path) is None and find_route(versioned) is not None else path


def nothing_at(path: str) -> str:
    """Why there is nothing at a path, and what there is instead."""
    if path.startswith(("/v1/v1/", "/anthropic/v1/v1/")):
        return f"there is nothing at {path}; the base URL must not end in /v1"
    versioned = path if path.startswith("/v1/") else f"/v1{path}"
    why = next((f": {why}" for beginning, why in _NOT_SERVED.items() if _is_below(versioned, beginning)), "")
    return f"there is nothing at {path}{why}; there are: {', '.join(_ASKED)}"


def _is_below(path: str, beginning: str) -> bool:
    return path == beginning or path.startswith(f"{beginning}/")


_ASKED: Final = tuple(path for path in reversed(_EXACT) if path.startswith("/v1/") and not path.endswith("/"))


def spoken_at(path: str) -> str:
    """The dialect of whoever asks at this path, served or not; empty where the client's headers say it."""
    route = _EXACT.get(path)
    if route is not None and route.dialect:
        return route.dialect
    return next((dialect for beginning, dialect in _SPOKEN_BELOW.items() if path.startswith(beginning)), "")
