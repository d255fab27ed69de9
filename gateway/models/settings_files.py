"""What the settings files say, parsed, and read again when they change.

A file that does not parse stops the process when it starts. Later it is reported once in the log and the last good
content stays in force, so that a slip of the pen never takes the gateway down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from gateway.models.resolve import Routes, parse_aliases
from gateway.models.sampling import parse_sampling
from shared.config import Settings, SettingsFile
from shared.errors import ConfigError
from shared.registry import parse_models
from shared.routing import parse_tiers

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class _ParsedFile(Generic[_T]):
    def __init__(self, settings: Settings, name: str, parse: Callable[[Any], _T]) -> None:
        self._file = SettingsFile(settings, name)
        self._parse = parse
        self._data = self._file.load()
        self.value = parse(self._data)

    def refresh(self) -> bool:
        """Whether the content changed."""
        try:
            data = self._file.load()
            if data is self._data:
                return False
            self._data = data
            self.value = self._parse(data)
        except ConfigError as error:
            logger.error("%s; its last good content stays in force", error)  # noqa: TRY400 the text says it all
            return False
        return True


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "models.json": lambda data: parse_models(data) if data else (),
    "model_aliases.json": parse_aliases,
    "claude_routing.json": parse_tiers,
    "inference_settings.json": parse_sampling,
}


def find_faults(settings: Settings) -> Iterator[str]:
    """One line for each settings file that cannot be used: whoever reads it would not start."""
    for name, parse in _PARSERS.items():
        try:
            parse(SettingsFile(settings, name).load())
        except ConfigError as error:
            yield str(error)


class Policies:
    """Raises `ConfigError` when made with a file that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._aliases = _ParsedFile(settings, "model_aliases.json", parse_aliases)
        self._tiers = _ParsedFile(settings, "claude_routing.json", parse_tiers)
        self._sampling = _ParsedFile(settings, "inference_settings.json", parse_sampling)
        self._default_model = settings.default_model
        self._routes = self._build_routes()

    def routes(self) -> Routes:
        """What names stand for now."""
        if self._aliases.refresh() | self._tiers.refresh():
            self._routes = self._build_routes()
        return self._routes

    def sampling(self) -> Mapping[str, Mapping[str, Any]]:
        """Sampling defaults by model id, those of all models under the empty one."""
        self._sampling.refresh()
        return self._sampling.value

    def _build_routes(self) -> Routes:
        return Routes(aliases=self._aliases.value, tiers=self._tiers.value, default_model=self._default_model)
