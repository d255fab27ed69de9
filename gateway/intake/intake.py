"""From what a client asked to what its model is asked: the model behind the name, the settings."""

from __future__ import annotations

from dataclasses import replace

from gateway.intake.tags import Tagger
from gateway.models.fallbacks import Chain, Fallback, Fallbacks
from gateway.models.names import MayUse, ModelNames
from gateway.models.rules import Rule, traits_of
from gateway.models.sampling import fill_sampling
from gateway.models.settings_files import Policies
from shared.errors import GatewayError
from shared.request import GenerateRequest


class Intake:
    def __init__(self, names: ModelNames, policies: Policies, tagger: Tagger, fallbacks: Fallbacks) -> None:
        self.names = names
        self._fallbacks = fallbacks
        self._tagger = tagger
        self._policies = policies

    async def chain(self, name: str, may_use: MayUse | None = None) -> Chain:
        """Who is asked, one after another, for a client's name of a model: nobody whom it may not use instead."""
        model = await self._model_of(name, may_use)
        fallback = self._fallbacks.instead(name, model)
        others = {each: await self._model_of(each, may_use) for each in fallback.models if each != name}
        chain = self._fallbacks.of(name, fallback, {name: model, **others})
        if may_use is None:
            return chain
        return chain.without({each for each, model in others.items() if model and not may_use(model)})

    def alone(self, model: str) -> Chain:
        """The model itself, whoever else may answer for it."""
        return self._fallbacks.of(model, Fallback(models=()), {})

    async def ruled(self, request: GenerateRequest, may_use: MayUse | None = None) -> Rule | None:
        """The first rule of the settings that fits a request, whose `model` is still the client's name for it, and
        leads to a model that it may use."""
        rules = self._policies.rules()
        traits = traits_of(request) if rules else None
        for rule in rules:
            if traits is not None and rule.fits(traits, self.names.vendors):
                model = await self._model_of(rule.model, may_use)
                if model and (may_use is None or may_use(model)):
                    return rule
        return None

    async def _model_of(self, name: str, may_use: MayUse | None) -> str:
        try:
            return (await self.names.resolve(name, may_use)).model
        except GatewayError:  # which is told when it is taken
            return ""

    async def take(self, request: GenerateRequest, may_use: MayUse | None = None) -> GenerateRequest:
        """The request whose `model` is still the client's name for it, as it goes to a worker. Raises the errors of
        `ModelNames.resolve`."""
        target = await self.names.resolve(request.model, may_use)
        profile = self._policies.profile(target.profile)
        sampling = fill_sampling(request.sampling, self._policies.sampling(), target.model, profile.sampling)
        filled = profile.fill(request) if target.profile else request
        return self._tagger.tagged(replace(filled, model=target.model, sampling=sampling))
