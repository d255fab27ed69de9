"""Names that the settings files give to models and that lead nowhere: found when a person can still mend them, not
when a client asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.models.resolve import Routes, VendorNames, resolve
from shared.errors import GatewayError, ModelNotFoundError
from shared.registry import Fleet


def find_dead_names(fleet: Fleet, routes: Routes, vendors: Sequence[VendorNames]) -> Iterator[str]:
    """One line for each alias, tier and default; none while nothing is served, or a host is there that we do not
    understand: it may serve the model."""
    if not fleet.model_ids() or fleet.strangers:
        return
    for name, what in _names(routes):
        try:
            resolve(name, fleet, routes, vendors=vendors)
        except ModelNotFoundError as error:
            yield f"{what} leads nowhere: {error}"
        except GatewayError:
            continue  # it leads to a model, which fails for another reason that others tell


def _names(routes: Routes) -> Iterator[tuple[str, str]]:
    for alias, model in routes.aliases.items():
        is_pattern = any(character in alias for character in "*?[")
        yield (model if is_pattern else alias), f"the alias {alias!r} of model_aliases.json"
    for tier, target in routes.tiers.items():
        yield target.model, f"the tier {tier!r} of claude_routing.json"
    if routes.default_model:
        yield routes.default_model, "the default model"
