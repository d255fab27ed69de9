"""What every endpoint may use. Built once per process by `gateway.app`."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.dispatch.admission import History, Load, admit, queue_of
from gateway.dispatch.coalescing import Attachables
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.jobs import JobQueue
from gateway.dispatch.presence import away_error
from gateway.dispatch.streams import FrameHub
from gateway.metrics import Metrics
from gateway.models.resolve import resolve
from gateway.models.settings_files import Policies
from shared.config import Settings
from shared.errors import ModelNotFoundError, OverloadedError
from shared.request import Priority
from shared.routing import Target

_RECONNECTION_S = 1.0
_SETTLED_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    settings: Settings
    policies: Policies
    fleet: FleetWatcher
    jobs: JobQueue
    hub: FrameHub
    metrics: Metrics
    history: History
    attachables: Attachables

    async def resolve(self, name: str) -> Target:
        """The model behind a client's name for it. See `gateway.models.resolve.resolve` for the errors; besides them
        `BrokerUnavailableError`, when nothing can be known because Redis is away."""
        try:
            return self._resolve(name)
        except (ModelNotFoundError, OverloadedError):
            # The snapshot may be older than the model.
            await self.fleet.refresh()
            return self._resolve(name)

    def _resolve(self, name: str) -> Target:
        return resolve(name, self.fleet.snapshot, self.policies.routes(), last_used=self.history.last_model)

    def check_broker(self) -> None:
        """Raises `BrokerUnavailableError` when an answer could not come back. A connection that is just being made
        anew is no reason: what is missed meanwhile is repaired."""
        if max(self.fleet.away_s, self.hub.away_s) > _RECONNECTION_S:
            raise away_error("Redis cannot be reached")

    async def wake(self, model: str) -> None:
        """Ask the hosts to load the model when no worker holds it. Raises `BrokerUnavailableError`."""
        if not any(worker.model == model for worker in self.fleet.snapshot.workers):
            await self.jobs.request_load(model)

    def deadline_s(self, priority: Priority) -> float:
        """Seconds that a request of this class may wait for its turn."""
        settings = self.settings
        return settings.batch_deadline_s if priority == "batch" else settings.interactive_deadline_s

    async def admit(self, model: str, priority: Priority) -> None:
        """Raises `OverloadedError`, only on what is true at this moment. See `gateway.dispatch.admission.admit`."""
        try:
            self._admit(model, priority)
        except OverloadedError:
            await self.jobs.settle(_SETTLED_S)  # who has left no longer waits
            await self.fleet.refresh()
            try:
                self._admit(model, priority)
            except OverloadedError as error:
                self.metrics.rejection(error)
                raise

    def _admit(self, model: str, priority: Priority) -> None:
        load = Load(
            queued=self.fleet.depths.get(model, 0),
            outstanding=self.hub.outstanding(model),
            service_s=self.history.service_s(model),
        )
        deadline_s = self.deadline_s(priority)
        max_queue = queue_of(priority, self.settings.max_queue)
        admit(self.fleet.snapshot, model, load, max_queue=max_queue, deadline_s=deadline_s)
