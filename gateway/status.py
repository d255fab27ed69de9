"""The endpoints that answer from what the gateway already knows: models, health, metrics."""

from __future__ import annotations

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway import catalog
from gateway.metrics import CONTENT_TYPE
from gateway.replies import is_anthropic_client, send_json, send_reply
from gateway.services import Services


class Models:
    """`GET /v1/models` in the shape that the client's headers ask for; `is_anthropic` where the path says it."""

    def __init__(self, services: Services, *, is_anthropic: bool = False) -> None:
        self.services = services
        self.is_anthropic = is_anthropic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fleet = self.services.fleet.snapshot
        if self.is_anthropic or is_anthropic_client(scope):
            page = catalog.parse_page(QueryParams(scope["query_string"]))
            await send_json(send, 200, catalog.render_anthropic_models(fleet, page))
        else:
            await send_json(send, 200, catalog.render_openai_models(fleet))


class Model(Models):
    """`GET /v1/models/{id}`: by any name that generation accepts."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name: str = scope["path_params"]["id"]
        target = await self.services.resolve(name)
        fleet = self.services.fleet.snapshot
        if self.is_anthropic or is_anthropic_client(scope):
            await send_json(send, 200, catalog.render_anthropic_model(fleet, target.model, name=name))
        else:
            await send_json(send, 200, catalog.render_openai_model(fleet, target.model, name=name))


class Health:
    """`GET /health`: the process lives."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"status": "ok"})


class Ready:
    """`GET /ready`: 200 when a model can answer, else 503 with what is missing."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self.services
        fleet = services.fleet.snapshot
        is_connected = services.fleet.is_connected and services.hub.is_connected
        ready = sorted({worker.model for worker in fleet.workers if worker.state == "ready"})
        loading = {worker.model: worker.load_done for worker in fleet.workers if worker.state == "loading"}
        failed = {m.id: m.reason for host in fleet.hosts for m in host.models if m.state == "failed"}
        answer = {"ready": is_connected and bool(ready), "redis": is_connected, "models": ready}
        await send_json(send, 200 if answer["ready"] else 503, answer | {"loading": loading, "failed": failed})


class MetricsPage:
    """`GET /metrics`: Prometheus text."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_reply(send, 200, self.services.metrics.render(), media_type=CONTENT_TYPE.encode())


class Root:
    """`GET /` and what clients probe before they begin: an answer at once, without asking anybody."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"name": "mlx-gateway", "status": "ok"})
