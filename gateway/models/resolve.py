"""From the name a client uses to the model that answers.

Order: exact id, source path or Hugging Face id -> exact alias -> wildcard alias -> Claude tier -> `current-model`
-> the default, for a vendor's own names only (`VendorNames`). Any other unknown name resolves to nothing: a person who
mistypes a model's name must hear about it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from shared.errors import ConfigError, GatewayError, ModelNotFoundError, ModelUnavailableError, OverloadedError
from shared.registry import Fleet
from shared.routing import Target

CURRENT_MODEL = "current-model"
_LONGEST_CHAIN = 5  # aliases of aliases
_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """What the settings files say about names. Aliases with `*`, `?` or `[` are patterns; `:` and the name of one of
    the `profiles` may stand behind any name."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    tiers: Mapping[str, Target] = field(default_factory=dict)
    default_model: str = ""
    profiles: Collection[str] = ()


_NO_NAME = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorNames:
    """How a vendor's clients name models, in lower case. `prefix` may stand before any name. A name that begins as
    `beginning` says, or is one of `tiers` or `others`, is the vendor's own: it falls to the default, so that its
    clients work whatever their release calls its models."""

    prefix: str = ""
    beginning: re.Pattern[str] = _NO_NAME
    tiers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def owns(self, name: str) -> bool:
        return self.beginning.match(name.lower()) is not None or self._bare(name) in (*self.tiers, *self.others)

    def tier_of(self, name: str, tiers: Iterable[str]) -> str:
        """Which of `tiers` the name means, empty for none: the one that it is, or whose words stand in it behind the
        vendor's own beginning. `affable-7b` has no word `fable`, and the Opus of `opus-v1.2-7b` is not the vendor's."""
        begins = self.beginning.match(name.lower())
        words = _words(name.lower()[begins.end() :]) if begins else None
        found = [tier for tier in tiers if tier == self._bare(name) or (words and _words(tier) in words)]
        return max(found, key=len, default="")  # the longest says most

    def _bare(self, name: str) -> str:
        """Without what clients put around a name: `anthropic/opus[1m]` asks for opus."""
        return _MARK.sub("", name.lower().removeprefix(self.prefix))


_MARK = re.compile(r"\[[^\]]*\]$")


_SHOWN = 200  # characters of what a client sent


def _shown(name: str) -> str:
    return repr(name) if len(name) <= _SHOWN else f"{name[:_SHOWN]!r}…"


def _words(text: str) -> str:
    """The words of a name, each between two blanks."""
    return f" {' '.join(re.findall('[a-z0-9]+', text))} "


def parse_aliases(data: Any) -> dict[str, str]:
    """`model_aliases.json`: `{"alias or pattern": "model"}`, or the same under `aliases`."""
    if isinstance(data, dict) and isinstance(data.get("aliases"), dict):
        data = data["aliases"]
    if not isinstance(data, dict):
        raise ConfigError('model_aliases.json: expected {"alias": "model"}')
    for alias, model in data.items():
        if not isinstance(model, str) or not model:
            raise ConfigError(f"model_aliases.json: alias {alias!r} needs the name of a model")
    return dict(data)


def resolve(
    name: str, fleet: Fleet, routes: Routes, *, last_used: str = "", vendors: Sequence[VendorNames] = ()
) -> Target:
    """The model that answers to `name`. `last_used` is what `current-model` means while it is still served.

    Raises `ModelNotFoundError` with the names that exist, `ModelUnavailableError` with the host's reason, and
    `OverloadedError` while nothing is served at all.
    """
    return _Resolver(fleet, routes, last_used, vendors).resolve(name)


class _Resolver:
    def __init__(self, fleet: Fleet, routes: Routes, last_used: str, vendors: Sequence[VendorNames]) -> None:
        self.fleet = fleet
        self.routes = routes
        self.last_used = last_used
        self.vendors = vendors
        self.ids = fleet.model_ids()
        self.by_source = {m.source: m.id for h in fleet.hosts for m in h.models if m.source and m.id in self.ids}

    def resolve(self, name: str) -> Target:
        asked = self._parted(Target(model=name))
        if asked.profile:
            return replace(self.resolve(asked.model), profile=asked.profile)
        for spelling in dict.fromkeys((name, *(name.removeprefix(vendor.prefix) for vendor in self.vendors))):
            target = self._follow(spelling)
            if target is not None:
                return target
        if name == CURRENT_MODEL:
            return self._current()
        if not name or any(vendor.owns(name) for vendor in self.vendors):
            return self._default()
        if not self.ids:
            raise self._nothing_served()
        raise self._unknown(name, f"model {_shown(name)} does not exist{self._profiles_of(name)}; {self._existing()}")

    def _follow(self, name: str) -> Target | None:
        """Through aliases and tiers to a served model; None when the name says nothing."""
        target = Target(model=name)
        for _ in range(_LONGEST_CHAIN):
            served = self._served(target.model)
            if served:
                return replace(target, model=served)
            following = self._mapped(target.model)
            if following is None:
                break
            target = self._parted(replace(following, profile=target.profile or following.profile))
        if target.model == name:
            return None
        if target.model == CURRENT_MODEL:
            return self._current()
        if not self.ids:
            raise self._nothing_served()
        text = f"model {_shown(name)} stands for {target.model!r}, which is not served; {self._existing()}"
        raise self._unknown(name, text)

    def _parted(self, target: Target) -> Target:
        """Without the profile behind its name, where there is one and the whole is no name itself."""
        head, colon, profile = target.model.rpartition(":")
        is_name = target.model in self.ids or target.model in self.by_source or target.model in self.routes.aliases
        if not colon or profile not in self.routes.profiles or is_name:
            return target
        return replace(target, model=head, profile=target.profile or profile)

    def _unknown(self, name: str, text: str) -> GatewayError:
        """Nobody whom this gateway understands has the model. Those whom it does not understand may have it: that is
        to be mended, and no reason for a client to drop the model."""
        if self.fleet.strangers:
            return OverloadedError(f"{text}; {self._strangers()}", retry_after_s=_RETRY_AFTER_S)
        return ModelNotFoundError(text, model=name)

    def _strangers(self) -> str:
        return "; ".join(f"{each.kind} {each.name} gets no work: {each.reason}" for each in self.fleet.strangers)

    def _served(self, name: str) -> str:
        """The id of a model under its own name; raises when it cannot be loaded."""
        if name in self.ids:
            return name
        if name in self.by_source:
            return self.by_source[name]
        reason = self.fleet.failure(name)
        if reason:
            raise ModelUnavailableError(f"model {name!r} cannot be loaded: {reason}", model=name)
        return ""

    def _mapped(self, name: str) -> Target | None:
        aliases = self.routes.aliases
        if name in aliases:
            return Target(model=aliases[name])
        patterns = [alias for alias in aliases if any(c in alias for c in "*?[") and fnmatchcase(name, alias)]
        if patterns:
            return Target(model=aliases[max(patterns, key=len)])  # the longest pattern says most
        tiers = self.routes.tiers
        return next((tiers[tier] for vendor in self.vendors if (tier := vendor.tier_of(name, tiers))), None)

    def _current(self) -> Target:
        return Target(model=self.last_used) if self.last_used in self.ids else self._default()

    def _default(self) -> Target:
        if self.routes.default_model:
            target = self._follow(self.routes.default_model)
            if target is not None:
                return target
        ready = sorted({w.model for w in self.fleet.workers if w.state == "ready"})
        if ready or self.ids:
            return Target(model=(ready or self.ids)[0])
        raise self._nothing_served()

    def _nothing_served(self) -> Exception:
        failed = [m for h in self.fleet.hosts for m in h.models if m.is_hopeless]
        if failed:
            return ModelUnavailableError(f"model {failed[0].id!r} cannot be loaded: {failed[0].reason}")
        if self.fleet.strangers:
            return OverloadedError(self._strangers(), retry_after_s=_RETRY_AFTER_S)
        return OverloadedError("no worker or host is up at the moment", retry_after_s=_RETRY_AFTER_S)

    def _leads(self, name: str) -> bool:
        """Whether the name stands for a model that is served, by however many others."""
        for _ in range(_LONGEST_CHAIN):
            if name in self.ids or name in self.by_source:
                return True
            following = self._mapped(name)
            if following is None:
                return False
            name = self._parted(following).model
        return False

    def _profiles_of(self, name: str) -> str:
        """For who asked a model that is served for a profile that is not there."""
        head, _, _ = name.rpartition(":")
        if not head or not self.routes.profiles or not self._leads(head):
            return ""
        return f" (there are the profiles {', '.join(self.routes.profiles)})"

    def _existing(self) -> str:
        exact = (alias for alias in self.routes.aliases if not any(c in alias for c in "*?[") and self._leads(alias))
        return "there are: " + ", ".join(dict.fromkeys((*self.ids, *exact)))
