"""Composition root: builds every part of a gateway process from its settings and wires them to the routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

import starlette.routing
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from gateway.admin.api import Api, Console
from gateway.admin.pages import Files as ConsoleFiles
from gateway.admin.pages import Home, Page
from gateway.admin.session import Session, cookie_name
from gateway.batches.runner import BatchRunner
from gateway.dialects.registry import COUNTING_DIALECTS, DIALECTS, KEEPING_DIALECTS
from gateway.dispatch.long_waits import keep_telling_long_waits
from gateway.dispatch.moves import keep_moving
from gateway.dispatch.space import keep_telling
from gateway.dispatch.tasks import cancel_all
from gateway.dispatch.watchdog import Patience, Watchdog
from gateway.http.administration import Administration
from gateway.http.auth import Authentication
from gateway.http.background import Responses
from gateway.http.batch_ways import RoutedWays
from gateway.http.batches import MessageBatch, MessageBatches, OpenAIBatch, OpenAIBatches
from gateway.http.compacting import Compact
from gateway.http.conversations import Conversation, Conversations
from gateway.http.cross_origin import CrossOrigin
from gateway.http.documents import DocsPage, OpenAPI
from gateway.http.embeddings import Embeddings, Rerank
from gateway.http.endpoints import CountTokens, Generate
from gateway.http.files import File, Files
from gateway.http.kept import KeptAnswers
from gateway.http.middleware import BodyLimit, Counted, ErrorAnswers, RequestContext
from gateway.http.protocol import Refusals
from gateway.http.routes import ROUTES, Route, Work, nothing_at
from gateway.http.speech import Speech
from gateway.http.status import Greeting, Health, HostMetrics, MetricsPage, Model, Models, Ready, Status, Targets
from gateway.http.stored_completions import StoredCompletion, StoredCompletions
from gateway.http.transcriptions import Transcriptions
from gateway.http.visitors import Visitors
from gateway.loop_lag import keep_measuring_lag
from gateway.models.names import keep_telling_dead
from gateway.parts import Parts, build_parts
from shared.config import Settings
from shared.errors import (
    BrokerUnavailableError,
    MethodNotAllowedError,
    OverloadedError,
    RouteNotFoundError,
    UpgradeRefusedError,
)

logger = logging.getLogger(__name__)

_DRAIN_S = 5.0
_LAST_CANCELS_S = 2.0


class GatewayApp(FastAPI):
    """The ASGI application, with what its process must be able to tell it."""

    parts: Parts
    console: Console
    request_exit: Callable[[], None] | None = None  # set by the process that serves the application
    has_failed = False
    _draining: asyncio.Task[None] | None = None

    def fail(self) -> None:
        """A background task is gone, and answers with it: this process must be replaced."""
        self.has_failed = True
        if self.request_exit is not None:
            self.request_exit()

    def begin_drain(self) -> None:
        """The process stops: what does not end within `drain_s` ends with a retryable error."""
        self.console.feeds.end()
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await asyncio.sleep(drain_s(self.parts.settings))
        self.parts.hub.fail_all(OverloadedError("the gateway is restarting", retry_after_s=1))


def drain_s(settings: Settings) -> float:
    """For how long running streams may end by themselves when the process is asked to stop; no longer than workers
    let them."""
    return min(_DRAIN_S, settings.drain_s)


def create_app(settings: Settings) -> GatewayApp:
    """A gateway with its routes and background tasks. Redis may come later; a settings file or a URL that cannot be
    used raises `ConfigError`."""
    parts = build_parts(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running_tasks(
            parts, app.fail, BatchRunner(parts.batches, RoutedWays(app.router, parts.keys.holder_of))
        ):
            yield
        await app.console.aclose()
        await parts.aclose()

    app = GatewayApp(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.parts = parts
    app.console = Console(parts, app.router)
    app.router.routes[:] = _build_routes(parts, app.console)
    parts.metrics.routes = tuple(sorted({route.name for route in ROUTES if route.work in ("generate", "respond")}))
    app.add_exception_handler(HTTPException, _refuse_route)
    # The last one added is the outermost.
    visitors = Visitors.of(settings, has_keys=parts.keys.has_keys)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Authentication, check=parts.key_check, visitors=visitors, cookie=cookie_name(settings.port))
    app.add_middleware(Refusals)
    app.add_middleware(Counted, count=parts.metrics.answer)
    app.add_middleware(ErrorAnswers)
    app.add_middleware(CrossOrigin, visitors=visitors)
    app.add_middleware(RequestContext, tells_urls=settings.debug > 0)
    return app


# What is done on a route.
_ENDPOINTS: Mapping[Work, Callable[[Parts, Route], ASGIApp]] = {
    "generate": lambda parts, route: Generate(parts, DIALECTS[route.dialect], name=route.name),
    "respond": lambda parts, route: Responses(parts, DIALECTS[route.dialect], name=route.name),
    "count": lambda parts, route: CountTokens(parts, COUNTING_DIALECTS[route.dialect]),
    "compact": lambda parts, route: Compact(parts, DIALECTS[route.dialect], name=route.name),
    "conversations": lambda parts, _: Conversations(parts),
    "conversation": lambda parts, _: Conversation(parts),
    "kept": lambda parts, route: KeptAnswers(parts, KEEPING_DIALECTS[route.dialect]),
    "stored_completions": lambda parts, _: StoredCompletions(parts),
    "stored_completion": lambda parts, _: StoredCompletion(parts),
    "openapi": lambda *_: OpenAPI(),
    "docs": lambda *_: DocsPage(),
    "embeddings": lambda parts, _: Embeddings(parts),
    "rerank": lambda parts, _: Rerank(parts),
    "transcribe": lambda parts, _: Transcriptions(parts, "transcribe"),
    "translate": lambda parts, _: Transcriptions(parts, "translate"),
    "speak": lambda parts, _: Speech(parts),
    "files": lambda parts, _: Files(parts),
    "file": lambda parts, _: File(parts),
    "batches": lambda parts, _: OpenAIBatches(parts),
    "batch": lambda parts, _: OpenAIBatch(parts),
    "message_batches": lambda parts, _: MessageBatches(parts),
    "message_batch": lambda parts, _: MessageBatch(parts),
    "models": lambda parts, _: Models(parts),
    "model": lambda parts, _: Model(parts),
    "health": lambda parts, _: Health(parts.gateway),
    "ready": lambda parts, _: Ready(parts),
    "status": lambda parts, _: Status(parts),
    "metrics": lambda parts, _: MetricsPage(parts),
    "host_metrics": lambda parts, _: HostMetrics(parts),
    "targets": lambda parts, _: Targets(parts),
    "administer": lambda parts, _: Administration(parts),
    "greeting": lambda *_: Greeting(),
}


def _build_routes(parts: Parts, console: Console) -> list[BaseRoute]:
    page = Page()
    rooms: dict[Work, Callable[[Route], ASGIApp]] = {
        "home": lambda _: Home(page),
        "console": lambda _: ConsoleFiles(page, parts.settings.state_dir),
        "api": lambda route: _api(parts, console, route.name.removeprefix("api_")),
    }

    def build(route: Route) -> ASGIApp:
        return rooms[route.work](route) if route.work in rooms else _ENDPOINTS[route.work](parts, route)

    return [starlette.routing.Route(route.path, build(route), methods=route.methods) for route in ROUTES]


def _api(parts: Parts, console: Console, name: str) -> ASGIApp:
    if name == "session":
        return Session(parts.key_check, cookie_name(parts.settings.port))
    return Api(console, name)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Starlette's 404 and 405, to be answered in the dialect's shape like every other error."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        if "upgrade" in request.headers:  # on 426 Codex goes on with HTTP at once, on 404 and 405 after seven tries
            raise UpgradeRefusedError(f"{path} is served over HTTP alone: {allow}", allow=allow)
        raise MethodNotAllowedError(f"{request.method} is not allowed on {path}, only {allow}", allow=allow)
    raise RouteNotFoundError(nothing_at(path))


@contextlib.asynccontextmanager
async def running_tasks(
    parts: Parts, fail: Callable[[], None], batches: BatchRunner | None = None
) -> AsyncIterator[None]:
    """The background tasks. One that ends by itself is a bug: `fail` is called."""
    hub, fleet = parts.hub, parts.fleet
    try:
        await fleet.refresh()
    except BrokerUnavailableError as error:
        logger.warning("starting without Redis: %s", error)
    watchdog = Watchdog(hub, fleet, parts.jobs, Patience.of(parts.settings.execution_ttl_s))

    def report_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.critical("background task %s ended", task.get_name(), exc_info=task.exception())
            fail()

    works = {"fleet": fleet.run(), "frames": hub.run(), "watchdog": watchdog.run()}
    works["waits"] = keep_telling_long_waits(parts.dispatcher)
    works["moves"] = keep_moving(parts.dispatcher, fleet)
    works["strays"] = parts.strays.run()
    works["handovers"] = parts.handovers.run()
    works["names"] = keep_telling_dead(parts.names)
    works["redis-memory"] = keep_telling(parts.space, parts.metrics.redis_memory)
    if batches is not None:
        works["batches"] = batches.run()
    works["disk"] = parts.disk.run()
    works["usage"] = parts.usage.keep_writing()
    works["lag"] = keep_measuring_lag(parts.metrics.loop_lag)
    tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
    for task in tasks:
        task.add_done_callback(report_end)
    try:
        yield
    finally:
        await cancel_all([task for task in tasks if task.get_name() == "batches"])
        await cancel_all(parts.runs.tasks.values())
        await parts.joining.aclose()
        await parts.dispatcher.aclose()
        await fleet.withdraw()
        await parts.jobs.aclose(_LAST_CANCELS_S)
        await parts.usage.flush()
        await cancel_all(tasks)
