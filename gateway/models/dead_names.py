"""Names that the settings files give to models and that lead nowhere: found when a person can still mend them, not
when a client asks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

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
) -> Iterator[str]:
    """One line for each alias, tier and default, and for each model that has sampling defaults (`sampled`) or that a
    rule names (`ruled`, in their order); none while nothing is served, or a host is there that we do not understand: it
    may serve the model."""
    if not fleet.model_ids() or fleet.strangers:
        return
    for name, what in (*_names(routes), *_ruled(ruled)):
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


def _names(routes: Routes) -> Iterator[tuple[str, str]]:
    for alias, model in routes.aliases.items():
        is_pattern = any(character in alias for character in "*?[")
        yield (model if is_pattern else alias), f"the alias {alias!r} of model_aliases.json"
    for tier, target in routes.tiers.items():
        yield target.model, f"the tier {tier!r} of claude_routing.json"
    if routes.default_model:
        yield routes.default_model, "the default model"
