"""Names that the settings files give to models and that lead nowhere: found when a person can still mend them, not
when a client asks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from gateway.models.resolve import Routes, VendorNames, resolve
from shared.errors import GatewayError, ModelNotFoundError
from shared.registry import Fleet


def find_dead_names(
    fleet: Fleet,
    routes: Routes,
    vendors: Sequence[VendorNames],
    *,
    sampled: Collection[str] = (),
    ruled: Sequence[str] = (),
    instead: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator[str]:
    """One line for each alias, tier and default, and for each model that has sampling defaults (`sampled`), that a rule
    names (`ruled`, in their order) or that is asked `instead` of another, by that one's name; none while nothing is
    served, or a host is there that we do not understand: it may serve the model."""
    if not fleet.model_ids() or fleet.strangers:
        return
    for name, what in (*_names(routes), *_ruled(ruled), *_instead(instead)):
        try:
            resolve(name, fleet, routes, vendors=vendors)
        except ModelNotFoundError as error:
            yield f"{what} leads nowhere: {error}"
        except GatewayError:
            continue  # it leads to a model, which fails for another reason that others tell
    known = {record.id for host in fleet.hosts for record in host.models} | set(fleet.model_ids())
    there = ", ".join(sorted(known))
    for model in sorted(set(sampled) - known - {""}):
        yield f"inference_settings.json has defaults for {model!r}, which is not served; there are: {there}"


def _ruled(ruled: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, model in enumerate(ruled, 1):
        yield model, f"rule {number} of claude_routing.json"


def _instead(instead: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    for name, models in instead.items():
        for model in models:
            yield model, f"the fallback {model!r} of {name!r} in claude_routing.json"


def _names(routes: Routes) -> Iterator[tuple[str, str]]:
    for alias, model in routes.aliases.items():
        is_pattern = any(character in alias for character in "*?[")
        yield (model if is_pattern else alias), f"the alias {alias!r} of model_aliases.json"
    for tier, target in routes.tiers.items():
        yield target.model, f"the tier {tier!r} of claude_routing.json"
    if routes.default_model:
        yield routes.default_model, "the default model"
