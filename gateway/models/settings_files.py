"""What the settings files say, parsed, and read again when they change.

A file that does not parse stops the process when it starts. Later it is reported once in the log and the last good
content stays in force, so that a slip of the pen never takes the gateway down.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gateway.models.fallbacks import Fallback, parse_fallbacks
from gateway.models.profiles import Profile, parse_profiles
from gateway.models.resolve import Routes, parse_aliases
from gateway.models.rules import Rule, parse_rules
from gateway.models.sampling import parse_sampling
from shared.cache_settings import FILE as CACHE_SETTINGS
from shared.cache_settings import cache_faults, parse_cache_settings
from shared.config import SETTINGS_FILES, Settings, SettingsFile
from shared.errors import ConfigError
from shared.gguf_config import FILE as GGUF_CONFIG
from shared.gguf_config import gguf_faults
from shared.options import raise_first
from shared.parsed_file import ParsedFile
from shared.registry import ModelSpec, models_faults, parse_models
from shared.remotes import Remote, parse_remotes, remotes_faults
from shared.routing import parse_tiers

logger = logging.getLogger(__name__)

PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "models.json": lambda data: parse_models(data) if data else (),
    "model_aliases.json": parse_aliases,
    "claude_routing.json": lambda data: (parse_tiers(data), parse_fallbacks(data), parse_rules(data)),
    "inference_settings.json": lambda data: (parse_sampling(data), parse_profiles(data)),
    "remotes.json": parse_remotes,
    GGUF_CONFIG: lambda data: raise_first(gguf_faults(data)),
    CACHE_SETTINGS: parse_cache_settings,
}
# Those of which every fault can be told, not the first alone.
_FAULTS: Mapping[str, Callable[[Any], Iterable[str]]] = {
    "models.json": lambda data: models_faults(data) if data else (),
    "remotes.json": remotes_faults,
    GGUF_CONFIG: gguf_faults,
    CACHE_SETTINGS: cache_faults,
}


def _log(fault: str) -> None:
    logger.error("%s; its last good content stays in force", fault)


def find_faults(settings: Settings) -> Iterator[str]:
    """One line for each fault of a settings file that cannot be used: whoever reads it would not start."""
    parsed: dict[str, Any] = {}
    for name, parse in PARSERS.items():
        try:
            data = SettingsFile(settings, name).load()
            found = [*_FAULTS[name](data)] if name in _FAULTS else []
            if not found:
                parsed[name] = parse(data)
            yield from found
        except ConfigError as error:
            yield str(error)
    yield from _shared_ids(parsed.get("models.json", ()), parsed.get("remotes.json", ()))


def find_doubled(settings: Settings) -> Iterator[str]:
    """One line for each name that stands twice in one object of a settings file. Those that do not parse are left to
    `find_faults`."""
    for name in SETTINGS_FILES:
        found: list[str] = []
        with contextlib.suppress(ConfigError):
            SettingsFile(settings, name, found.append).load()
        yield from found


def _shared_ids(models: Iterable[ModelSpec], remotes: Iterable[Remote]) -> Iterator[str]:
    """Models of some hosts alone may share their name with those of others."""
    ids = Counter([*(spec.id for spec in models if not spec.hosts), *(remote.id for remote in remotes)])
    for name in (name for name, times in ids.items() if times > 1):
        yield f"two models are called {name!r} in models.json and remotes.json: give each an `id` of its own"


class Policies:
    """Raises `ConfigError` when made with a file that cannot be used. `tell` is given what is wrong with a file,
    once."""

    def __init__(self, settings: Settings, tell: Callable[[str], None] = _log) -> None:
        self._tell = tell
        self._told: dict[str, None] = {}
        self._aliases = ParsedFile(settings, "model_aliases.json", parse_aliases, logger.warning)
        self._tiers = ParsedFile(settings, "claude_routing.json", parse_tiers, logger.warning)
        self._fallbacks = ParsedFile(settings, "claude_routing.json", parse_fallbacks)
        self._rules = ParsedFile(settings, "claude_routing.json", parse_rules)
        self._sampling = ParsedFile(settings, "inference_settings.json", parse_sampling, logger.warning)
        self._profiles = ParsedFile(settings, "inference_settings.json", parse_profiles)
        self._cache = ParsedFile(settings, CACHE_SETTINGS, parse_cache_settings, logger.warning)
        self._default_model = settings.default_model
        self._routes = self._build_routes()

    def routes(self) -> Routes:
        """What names stand for now."""
        if self._aliases.refresh() | self._tiers.refresh() | self._profiles.refresh():
            self._routes = self._build_routes()
        self._tell_faults()
        return self._routes

    def fallbacks(self) -> Mapping[str, Fallback]:
        """Who answers where a model cannot, by the name that is asked for."""
        self._fallbacks.refresh()
        self._tell_faults()
        return self._fallbacks.value

    def rules(self) -> tuple[Rule, ...]:
        """Who answers by what a request is: the first that fits."""
        self._rules.refresh()
        self._tell_faults()
        return self._rules.value

    def sampling(self) -> Mapping[str, Mapping[str, Any]]:
        """Sampling defaults by model id, those of all models under the empty one."""
        self._sampling.refresh()
        self._tell_faults()
        return self._sampling.value

    def cache(self) -> Mapping[str, int]:
        """What is said of prefix caches, by setting: workers take it when they start."""
        self._cache.refresh()
        self._tell_faults()
        return self._cache.value

    def profile(self, name: str) -> Profile:
        """One without anything for no name, and for one that is gone."""
        return self._profiles.value.get(name, Profile())

    def faults(self) -> tuple[str, ...]:
        """One line for each file that cannot be used as it is now: its last good content stays in force."""
        self.routes()
        self.fallbacks()
        self.rules()
        self.sampling()
        self.cache()
        return tuple(self._told)

    def _tell_faults(self) -> None:
        files = (self._aliases, self._tiers, self._fallbacks, self._rules, self._sampling, self._profiles, self._cache)
        found = dict.fromkeys(each.fault for each in files if each.fault)
        for fault in found.keys() - self._told.keys():
            self._tell(fault)
        self._told = found

    def _build_routes(self) -> Routes:
        return Routes(
            aliases=self._aliases.value,
            tiers=self._tiers.value,
            default_model=self._default_model,
            profiles=self._profiles.value.keys(),
        )
