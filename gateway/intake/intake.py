"""From what a client asked to what its model is asked: the model behind the name, the settings."""

from __future__ import annotations

from dataclasses import replace

from gateway.intake.tags import Tagger
from gateway.models.names import ModelNames
from gateway.models.sampling import fill_sampling
from gateway.models.settings_files import Policies
from shared.request import GenerateRequest


class Intake:
    def __init__(self, names: ModelNames, policies: Policies, tagger: Tagger) -> None:
        self.names = names
        self._tagger = tagger
        self._policies = policies

    async def take(self, request: GenerateRequest) -> GenerateRequest:
        """The request whose `model` is still the client's name for it, as it goes to a worker. Raises the errors of
        `ModelNames.resolve`."""
        target = await self.names.resolve(request.model)
        sampling = fill_sampling(request.sampling, self._policies.sampling(), target.model)
        return self._tagger.tagged(replace(request, model=target.model, sampling=sampling))
