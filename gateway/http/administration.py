"""What a person does to the fleet from elsewhere, `/admin/…`: only an administrator's key may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.types import Receive, Scope, Send

from gateway.dispatch.jobs import drain
from gateway.dispatch.loading import hosts_to_load
from gateway.door.listing import list_hosts
from gateway.door.revoking import lock_out
from gateway.http.auth import check_writing_page
from gateway.http.replies import send_json
from gateway.parts import Parts
from shared.errors import ConfigError, InvalidRequestError, MethodNotAllowedError, RouteNotFoundError
from shared.keys import word

_LOADED: Final = ("loading", "ready", "no_memory")


class Administration:
    """`GET /admin/hosts`; `POST /admin/drain/WORKER`, `load/MODEL`, `unload/MODEL`, `revoke/HOST`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        action, _, name = str(scope["path_params"]["id"]).partition("/")
        if action == "hosts" and not name:
            living = {word(host.host) for host in self.parts.fleet.snapshot.hosts}
            await send_json(send, 200, {"hosts": list_hosts(self.parts.settings, living)})
            return
        act = _ACTIONS.get(action)
        if act is None or not name:
            raise RouteNotFoundError(
                f"there is no /admin/{action}: {', '.join(_ACTIONS)} take a name, hosts takes none"
            )
        if scope["method"] != "POST":
            raise MethodNotAllowedError(f"/admin/{action} is asked with POST", allow="POST")
        check_writing_page(scope)
        try:
            done = await act(self.parts, name)
        except ConfigError as error:
            raise refused_by(error) from error
        await send_json(send, 200, {"done": done})


def refused_by(error: ConfigError) -> InvalidRequestError:
    """What a person named is not there, or cannot be done."""
    kind = RouteNotFoundError if error.details.get("is_missing") else InvalidRequestError
    return kind(error.message)


async def _drain(parts: Parts, worker: str) -> str:
    if not await drain(parts.connections[0], worker):
        there = ", ".join(lease.worker for lease in parts.fleet.snapshot.workers) or "none"
        raise ConfigError(f"no worker is called {worker!r}; there are: {there}", is_missing=True)
    return f"{worker} drains"


async def load_model(parts: Parts, name: str) -> str:
    model = await _model(parts, name)
    if parts.fleet.snapshot.ready_workers(model):
        return f"{model} is ready"
    await parts.jobs.request_load(model, hosts_to_load(parts.fleet.snapshot, model))
    return f"{model} is asked for"


async def unload_model(parts: Parts, name: str) -> str:
    """Not where it is pinned."""
    model = await _model(parts, name)
    records = [(host.host, each) for host in parts.fleet.snapshot.hosts for each in host.models if each.id == model]
    loaded = [(host, record) for host, record in records if record.state in _LOADED]
    free = [host for host, record in loaded if not record.is_pinned]
    if loaded and not free:
        raise ConfigError(f"{model} is pinned in models.json: it stays")
    for host in free:
        await parts.jobs.request_unload(host, model, is_forced=False)
    return f"{model} is told to go from {', '.join(free)}" if free else f"{model} is not loaded"


async def _model(parts: Parts, name: str) -> str:
    known = {record.id for host in parts.fleet.snapshot.hosts for record in host.models}
    return name if name in known else (await parts.intake.names.resolve(name)).model


async def revoke_host(parts: Parts, host: str) -> str:
    return await lock_out(parts.settings, parts.connections[0], word(host))


_ACTIONS: Final[Mapping[str, Callable[[Parts, str], Awaitable[str]]]] = {
    "drain": _drain,
    "load": load_model,
    "unload": unload_model,
    "revoke": revoke_host,
}
