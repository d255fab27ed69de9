"""`mlx-gateway load` and `unload`: asks the hosts that serve a model, and waits until it is as it was asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.command.stack import describe_model
from gateway.dialects.registry import VENDOR_NAMES
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import JobQueue
from gateway.dispatch.loading import hosts_to_load
from gateway.models.resolve import resolve
from gateway.models.settings_files import Policies
from shared.config import Settings, load_secret, resolve_source
from shared.connections import build_async_redis
from shared.errors import ConfigError, GatewayError, ModelUnavailableError, NoMemoryError, OverloadedError
from shared.keys import Names
from shared.registry import Fleet, ModelRecord
from shared.seal import Keyring

_LOOK_S = 0.25
_ASK_EVERY_S = 1.0
_HOPE_S = 8.0  # for room, or for a host that has the model: others may be leaving
_LOADED = ("loading", "ready", "no_memory")  # or tried again and again


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where to ask and to look."""

    fleet: FleetWatcher
    jobs: JobQueue

    async def records(self, model: str) -> dict[str, ModelRecord]:
        """What each host says of the model."""
        fleet = await self.fleet.refresh()
        return {host.host: record for host in fleet.hosts for record in host.models if record.id == model}


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[_Desk]:
    names, keyring = Names(settings.deployment), Keyring(load_secret(settings))
    async with build_async_redis(settings) as broker:
        yield _Desk(FleetWatcher(broker, names, keyring), JobQueue(broker, names, keyring))


async def load_model(settings: Settings, name: str, *, say: Callable[[str], None]) -> str:
    """Load the model, unless it is loaded. What is the case then, for a person; `say` tells how it goes. Raises
    `ModelUnavailableError`, `NoMemoryError`, `ConfigError`, and `BrokerUnavailableError`."""
    async with _opened(settings) as desk:
        model = _named(settings, await desk.fleet.refresh(), name)
        wait, told = _Wait(model), ""
        while not (fleet := await desk.fleet.refresh()).ready_workers(model):
            error = wait.error(fleet, time.monotonic())
            if error is not None:
                raise error
            if wait.is_due(time.monotonic()):
                await desk.jobs.request_load(model, hosts_to_load(fleet, model))
            shown = "; ".join(map(describe_model, (await desk.records(model)).values()))
            if shown != told:
                say(shown)
            told = shown
            await asyncio.sleep(_LOOK_S)
    return f"{model} is ready"


class _Wait:
    """For a model that was asked for."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._asked_s = self._hoped_s = float("-inf")

    def is_due(self, now_s: float) -> bool:
        """Whether to ask (again)."""
        if now_s - self._asked_s < _ASK_EVERY_S:
            return False
        self._asked_s = now_s
        return True

    def error(self, fleet: Fleet, now_s: float) -> GatewayError | None:
        """Why it will not come; None while there is hope."""
        reason = fleet.failure(self._model)
        if reason:
            return ModelUnavailableError(f"{self._model} cannot be loaded: {reason}")
        refused = fleet.without_memory(self._model)
        is_offered = any(record.id == self._model for host in fleet.hosts for record in host.models)
        if (refused is None and is_offered) or self._hoped_s < 0:
            self._hoped_s = now_s
        if now_s - self._hoped_s < _HOPE_S:
            return None
        return NoMemoryError(describe_model(refused)) if refused else OverloadedError(f"no host serves {self._model}")


async def unload_model(settings: Settings, name: str, *, is_forced: bool) -> str:
    """Unload the model wherever it is loaded, and wait until its workers have finished what they held. What is the case
    then, for a person. Raises `ConfigError` for one that is pinned, unless forced, and `BrokerUnavailableError`."""
    async with _opened(settings) as desk:
        model = _named(settings, await desk.fleet.refresh(), name)
        loaded = _loaded(await desk.records(model))
        if not loaded:
            return f"{model} is not loaded"
        free = {host for host, record in loaded.items() if is_forced or not record.is_pinned}
        if not free:
            raise ConfigError(f"{model} is pinned in models.json: it stays, unless `--force` is given")
        asked_s = float("-inf")
        while left := free & _loaded(await desk.records(model)).keys():
            if time.monotonic() - asked_s >= _ASK_EVERY_S:
                asked_s = time.monotonic()
                for host in left:
                    await desk.jobs.request_unload(host, model, is_forced=is_forced)
            await asyncio.sleep(_LOOK_S)
    return f"{model} is unloaded"


def _loaded(records: dict[str, ModelRecord]) -> dict[str, ModelRecord]:
    return {host: record for host, record in records.items() if record.state in _LOADED}


def _named(settings: Settings, fleet: Fleet, name: str) -> str:
    """The model's id. Raises `GatewayError` for a name that means nothing here."""
    if name.startswith((".", "~", "/")):
        name = resolve_source(name)
    known = {record.id for host in fleet.hosts for record in host.models}
    return name if name in known else resolve(name, fleet, Policies(settings).routes(), vendors=VENDOR_NAMES).model
