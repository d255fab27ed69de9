"""Composition root: builds every part of a gateway process from its settings and wires them to the routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable

import redis.asyncio
from fastapi import FastAPI
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.dialects.registry import DIALECTS
from gateway.dispatch.admission import History
from gateway.dispatch.coalescing import Attachables
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import JobQueue
from gateway.dispatch.streams import FrameHub
from gateway.dispatch.tasks import cancel_all
from gateway.dispatch.watchdog import Patience, Watchdog
from gateway.http.auth import Authentication
from gateway.http.endpoints import CountTokens, Generate
from gateway.http.middleware import BodyLimit, ErrorAnswers, RequestContext
from gateway.http.status import Health, MetricsPage, Model, Models, Ready, Root
from gateway.metrics import Metrics
from gateway.models.settings_files import Policies
from gateway.services import Services
from shared.config import Settings, load_secret
from shared.connections import build_async_redis
from shared.errors import BrokerUnavailableError, MethodNotAllowedError, OverloadedError, RouteNotFoundError

logger = logging.getLogger(__name__)

_DRAIN_S = 5.0
_LAST_CANCELS_S = 2.0
_READ_ONLY = ["GET", "HEAD"]
_PROBED = ("/", "/api/hello", "/anthropic", "/anthropic/api/hello")


class GatewayApp(FastAPI):
    """The ASGI application, with what its process must be able to tell it."""

    services: Services
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
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await asyncio.sleep(drain_s(self.services.settings))
        self.services.hub.fail_all(OverloadedError("the gateway is restarting", retry_after_s=1))


def drain_s(settings: Settings) -> float:
    """For how long running streams may end by themselves when the process is asked to stop; no longer than workers
    let them."""
    return min(_DRAIN_S, settings.drain_s)


def create_app(settings: Settings) -> GatewayApp:
    """A gateway with its routes and background tasks. Redis may come later; a settings file or a URL that cannot be
    used raises `ConfigError`."""
    policies = Policies(settings)
    client, subscriber = build_clients(settings)
    fleet = FleetWatcher(client)
    metrics = Metrics(fleet)
    hub = FrameHub(subscriber, client, f"gw{secrets.token_hex(6)}", on_gap=metrics.gap)
    services = Services(
        settings=settings,
        policies=policies,
        fleet=fleet,
        jobs=JobQueue(client, load_secret(settings)),
        hub=hub,
        metrics=metrics,
        history=History(),
        attachables=Attachables(),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running_tasks(services, app.fail):
            yield
        await client.aclose()
        await subscriber.aclose()

    app = GatewayApp(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.services = services
    app.router.routes[:] = _routes(services)
    app.add_exception_handler(HTTPException, _refuse_route)
    # The last one added is the outermost.
    app.add_middleware(Authentication, api_key=settings.api_key)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(ErrorAnswers)
    app.add_middleware(RequestContext)
    return app


def build_clients(settings: Settings) -> tuple[redis.asyncio.Redis, redis.asyncio.Redis]:
    """One client for commands, one for the subscription. Neither retries by itself: a job must not be queued twice,
    and a broken subscription must be seen. Neither has time-outs: whoever asks has one for the whole."""
    client, subscriber = (build_async_redis(settings, socket_timeout_s=None) for _ in range(2))
    for each in (client, subscriber):
        each.set_retry(Retry(NoBackoff(), 0))
    return client, subscriber


def _routes(services: Services) -> list[BaseRoute]:
    anthropic, openai_chat = DIALECTS["anthropic"], DIALECTS["openai_chat"]
    routes: list[BaseRoute] = []
    for prefix in ("", "/anthropic"):
        generate = Generate(services, anthropic, route="messages")
        count = CountTokens(services, anthropic, route="count_tokens")
        routes += [
            Route(f"{prefix}/v1/messages", generate, methods=["POST"]),
            Route(f"{prefix}/v1/messages/count_tokens", count, methods=["POST"]),
        ]
    return [
        *routes,
        Route("/v1/chat/completions", Generate(services, openai_chat, route="chat_completions"), methods=["POST"]),
        *_model_routes("/v1/models", services, is_anthropic=False),
        *_model_routes("/anthropic/v1/models", services, is_anthropic=True),
        *(Route(path, Root(), methods=_READ_ONLY) for path in _PROBED),
        Route("/health", Health(), methods=_READ_ONLY),
        Route("/ready", Ready(services), methods=_READ_ONLY),
        Route("/metrics", MetricsPage(services), methods=_READ_ONLY),
    ]


def _model_routes(path: str, services: Services, *, is_anthropic: bool) -> list[BaseRoute]:
    listed = Models(services, is_anthropic=is_anthropic)
    return [
        Route(path, listed, methods=_READ_ONLY),
        Route(f"{path}/", listed, methods=_READ_ONLY),  # and not the model with an empty id
        Route(path + "/{id:path}", Model(services, is_anthropic=is_anthropic), methods=_READ_ONLY),
    ]


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Starlette's 404 and 405, to be answered in the dialect's shape like every other error."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        raise MethodNotAllowedError(f"{request.method} is not allowed on {path}, only {allow}", allow=allow)
    hint = "; the base URL must not end in /v1" if path.startswith(("/v1/v1/", "/anthropic/v1/v1/")) else ""
    raise RouteNotFoundError(f"there is nothing at {path}{hint}")


@contextlib.asynccontextmanager
async def running_tasks(services: Services, fail: Callable[[], None]) -> AsyncIterator[None]:
    """The background tasks. One that ends by itself is a bug: `fail` is called."""
    hub, fleet = services.hub, services.fleet
    try:
        await fleet.refresh()
    except BrokerUnavailableError as error:
        logger.warning("starting without Redis: %s", error)
    watchdog = Watchdog(hub, fleet, services.jobs, Patience.of(services.settings.execution_ttl_s))

    def report_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.critical("background task %s ended", task.get_name(), exc_info=task.exception())
            fail()

    works = {"fleet": fleet.run(), "frames": hub.run(), "watchdog": watchdog.run()}
    tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
    for task in tasks:
        task.add_done_callback(report_end)
    try:
        yield
    finally:
        await services.jobs.settle(_LAST_CANCELS_S)
        await cancel_all(tasks)
