"""The endpoints that answer from what the gateway already knows: models, health, metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.dispatch.dispatch import Dispatch
from gateway.http.replies import dialect_of, header, send_json, send_reply
from gateway.keys.holder import Holder, holder_of
from gateway.metrics import CONTENT_TYPE
from gateway.models.names import usable
from gateway.overview import Running, render_overview
from gateway.parts import Parts
from shared.errors import RouteNotFoundError
from shared.fingerprints import ID_HEADER
from shared.registry import Fleet
from shared.work import KINDS, Generate


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
        holder = holder_of(scope)
        target = await self.parts.intake.names.resolve(name, holder.limit)
        holder.check_model(target.model, asked=name)
        await send_json(send, 200, dialect_of(scope).render_model(self.parts.fleet.snapshot, target.model, name=name))


def shown_to(holder: Holder, fleet: Fleet) -> Fleet:
    """The fleet with the models that the holder may use."""
    return usable(fleet, holder.may_use) if holder.models else fleet


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
    """`GET /status`: who is in the fleet, what runs there, and with whom this gateway cannot speak."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self.parts
        running = _running(parts.hub.dispatches.values())
        quarantined = parts.suspects.quarantined
        told = render_overview(parts.fleet.snapshot, quarantined=quarantined, running=running)
        await send_json(send, 200, told)


def _running(dispatches: Iterable[Dispatch]) -> Iterator[Running]:
    """What somebody waits for: counting is over before anybody looks."""
    now_s = time.monotonic()
    for each in tuple(dispatches):
        if not each.has_ended and each.kind is KINDS[Generate]:
            yield Running(
                id=each.request_id,
                model=each.model,
                worker=each.attempt.worker or each.attempt.place.worker,
                priority=each.request.priority,
                stage=each.shown_stage,
                prefill_done=1.0 if each.shown_stage == "decode" else each.attempt.prefill_done,
                prompt_tokens=each.attempt.prompt_tokens,
                output_tokens=each.attempt.said_tokens,
                age_s=now_s - each.opened_s,
            )


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
