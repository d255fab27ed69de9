"""Clients' names for models, resolved on what is served and configured at this moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from gateway.models.dead_names import find_dead_names
from gateway.models.resolve import VendorNames, resolve
from gateway.models.settings_files import Policies
from shared.beats import until_beat_s
from shared.errors import GatewayError, ModelNotFoundError, OverloadedError
from shared.registry import Fleet
from shared.routing import Target

MayUse = Callable[[str], bool]  # of a model's id

logger = logging.getLogger(__name__)

_LOOK_S = 10.0


class FleetSource(Protocol):
    """Who knows what is served."""

    @property
    def snapshot(self) -> Fleet: ...

    async def refresh(self) -> Fleet:
        """As of now. Raises `BrokerUnavailableError`."""


class ModelNames:
    """`last_used` gives the model that `current-model` means."""

    def __init__(
        self, policies: Policies, fleet: FleetSource, vendors: Sequence[VendorNames], last_used: Callable[[], str]
    ) -> None:
        self._policies = policies
        self._fleet = fleet
        self.vendors = vendors
        self._last_used = last_used

    async def resolve(self, name: str, may_use: MayUse | None = None) -> Target:
        """The model behind a client's name for it. Where a client may use some models only, names that leave the choice
        stand for one of those, and errors name no other; a name of one that it may not use is that one's, which is for
        its caller to refuse. See `gateway.models.resolve.resolve` for the errors; besides them
        `BrokerUnavailableError`, when nothing can be known because Redis is away."""
        try:
            return self._resolve(name, may_use)
        except (ModelNotFoundError, OverloadedError):
            # The snapshot may be older than the model.
            await self._fleet.refresh()
            return self._resolve(name, may_use)

    def dead(self) -> frozenset[str]:
        """What the settings files name and nobody serves, a line each."""
        policies = self._policies
        found = find_dead_names(
            self._fleet.snapshot,
            policies.routes(),
            self.vendors,
            sampled=policies.sampling().keys(),
            ruled=[rule.model for rule in policies.rules()],
            instead={name: each.models for name, each in policies.fallbacks().items()},
        )
        return frozenset(found)

    def _resolve(self, name: str, may_use: MayUse | None) -> Target:
        fleet = self._fleet.snapshot
        if may_use is None:
            return self._among(fleet, name)
        try:
            return self._among(usable(fleet, may_use), name)
        except GatewayError as error:
            with contextlib.suppress(GatewayError):
                return self._among(fleet, name)
            raise error

    def _among(self, fleet: Fleet, name: str) -> Target:
        routes, last_used = self._policies.routes(), self._last_used()
        return resolve(name, fleet, routes, last_used=last_used, vendors=self.vendors)


def usable(fleet: Fleet, may_use: MayUse) -> Fleet:
    """The fleet with the models that may be used."""
    hosts = tuple(replace(host, models=tuple(each for each in host.models if may_use(each.id))) for host in fleet.hosts)
    return replace(fleet, hosts=hosts, workers=tuple(each for each in fleet.workers if may_use(each.model)))


async def keep_telling_dead(names: ModelNames) -> None:
    """Log, for ever and each once, the names that lead nowhere at two looks: a host may come a little later."""
    before: frozenset[str] = frozenset()
    told: frozenset[str] = frozenset()
    while True:
        await asyncio.sleep(until_beat_s(_LOOK_S))
        dead = names.dead()
        for line in sorted(dead & before - told):
            logger.warning("%s", line)
        before, told = dead, dead & (told | before)
