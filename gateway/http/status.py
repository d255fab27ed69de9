"""The endpoints that answer from what the gateway already knows: models, health, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.http.replies import dialect_of, header, send_json, send_reply
from gateway.keys.holder import Holder, holder_of
from gateway.metrics import CONTENT_TYPE
from gateway.parts import Parts
from shared.errors import RouteNotFoundError
from shared.fingerprints import ID_HEADER
from shared.registry import Fleet, ModelRecord

_NOTHING: Mapping[str, Mapping[str, Any]] = {}


class Models:
    """`GET /v1/models` in the shape of the dialect that the path or the client's headers ask for."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = QueryParams(scope["query_string"])
        shown = shown_to(holder_of(scope), self.parts.fleet.snapshot)
        await send_json(send, 200, dialect_of(scope).render_models(shown, query))


class Model(Models):
    """`GET /v1/models/{id}`: by any name that generation accepts."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name: str = scope["path_params"]["id"]
        target = await self.parts.intake.names.resolve(name)
        holder_of(scope).check_model(target.model)
        await send_json(send, 200, dialect_of(scope).render_model(self.parts.fleet.snapshot, target.model, name=name))


def shown_to(holder: Holder, fleet: Fleet) -> Fleet:
    """The fleet with the models that the holder may use."""
    if not holder.models:
        return fleet
    hosts = tuple(
        replace(host, models=tuple(model for model in host.models if holder.may_use(model.id))) for host in fleet.hosts
    )
    return replace(fleet, hosts=hosts, workers=tuple(w for w in fleet.workers if holder.may_use(w.model)))


class Health:
    """`GET /health`: the process lives. Its header tells other gateways which one."""

    def __init__(self, gateway: str) -> None:
        self._headers = {ID_HEADER: gateway}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"status": "ok"}, headers=self._headers)


class Ready:
    """`GET /ready`: 200 when a model can answer, else 503 with what is missing."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self.parts
        is_connected = parts.fleet.is_connected and parts.hub.is_connected
        answer = render_readiness(parts.fleet.snapshot, is_connected=is_connected)
        await send_json(send, 200 if answer["ready"] else 503, answer)


def render_readiness(fleet: Fleet, *, is_connected: bool) -> dict[str, Any]:
    """Models that wait to be asked for can answer: who asks only those that are loaded would never have them loaded.
    While others are being loaded, it is those that are waited for."""
    records = [model for host in fleet.hosts for model in host.models]
    ready = sorted({worker.model for worker in fleet.workers if worker.state == "ready"})
    available = sorted({model.id for model in records if model.state in ("available", "unloaded")})
    loading = {model.id: model.load_done for model in records if model.state == "loading"}
    loading |= {worker.model: worker.load_done for worker in fleet.workers if worker.state == "loading"}
    return {
        "ready": is_connected and bool(ready or (available and not loading)),
        "redis": is_connected,
        "models": ready,
        "available": available,
        "loading": loading,
        "no_memory": {model.id: model.reason for model in records if model.state == "no_memory"},
        "failed": {model.id: model.reason for model in records if model.state == "failed"},
    }


class Status:
    """`GET /status`: who is in the fleet, and with whom this gateway cannot speak."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, render_status(self.parts.fleet.snapshot, self.parts.suspects.quarantined))


def render_status(fleet: Fleet, quarantined: Mapping[str, Mapping[str, Any]] = _NOTHING) -> dict[str, Any]:
    """`quarantined`: by digest, the shape of what is not run again."""
    return {
        "gateways": [{"name": each.gateway, "pid": each.pid} for each in fleet.gateways],
        "hosts": [
            {"name": host.host, "models": [_render_model(model) for model in host.models]} for host in fleet.hosts
        ],
        "workers": [
            {"name": each.worker, "model": each.model, "state": each.state, "in_flight": each.in_flight}
            for each in fleet.workers
        ],
        "faults": [{"fault": fault, "told_by": names} for fault, names in fleet.faults().items()],
        "quarantined": [{"digest": digest, **shape} for digest, shape in quarantined.items()],
        "strangers": [{"kind": each.kind, "name": each.name, "reason": each.reason} for each in fleet.strangers],
    }


def _render_model(model: ModelRecord) -> dict[str, Any]:
    """What is known of it: zeros and empty texts are left out."""
    told = {
        "load_done": model.load_done if model.state == "loading" else 0,
        "pinned": model.is_pinned,
        "reason": model.reason,
        "needed_bytes": model.needed_bytes,
        "limit_bytes": model.limit_bytes,
    }
    rendered = {"id": model.id, "state": model.state, **{name: value for name, value in told.items() if value}}
    return rendered | ({"free_bytes": model.free_bytes} if model.state == "no_memory" else {})


class MetricsPage:
    """`GET /metrics`: Prometheus text."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_reply(send, 200, self.parts.metrics.render(), media_type=CONTENT_TYPE.encode())


class HostMetrics:
    """`GET /metrics/hosts`, `GET /metrics/hosts/{id}`: what hosts and their workers say of themselves."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host: str = scope["path_params"].get("id", "")
        if host and host not in {each.host for each in self.parts.fleet.snapshot.hosts}:
            raise RouteNotFoundError(f"no host is called {host!r}")
        await send_reply(send, 200, self.parts.host_pages.render(host), media_type=CONTENT_TYPE.encode())


class Targets:
    """`GET /metrics/targets`: what Prometheus should scrape, as its HTTP service discovery wants it.

    Source: https://prometheus.io/docs/prometheus/latest/http_sd/.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = header(scope, b"host")
        await send_json(send, 200, render_targets(self.parts.fleet.snapshot, asked=asked))


def render_targets(fleet: Fleet, *, asked: str) -> list[dict[str, Any]]:
    """Every gateway by its own address, and every host through the gateway that was `asked`, once each."""
    gateways = [
        {"targets": [each.address], "labels": {"job": "mlx-gateway", "gateway": each.gateway}}
        for each in fleet.gateways
        if each.address
    ]
    hosts = [
        {
            "targets": [asked],
            "labels": {"job": "mlx-host", "instance": name, "__metrics_path__": f"/metrics/hosts/{quote(name)}"},
        }
        for name in sorted({each.host for each in fleet.hosts})
    ]
    return gateways + hosts


class Greeting:
    """`GET /` and what clients probe before they begin: an answer at once, without asking anybody."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"name": "mlx-gateway", "status": "ok"})
