"""Who answers where a model cannot: `fallbacks` of `claude_routing.json`.

    {"tiers": {…}, "fallbacks": {"opus": ["big", "small"], "big": {"models": ["small"], "on": ["overloaded"],
     "cool_down_s": 60}}}

The key is what a client asks for: a tier, an alias or a model; what it stands for counts where it has none of its own.
The next is asked when one fails for a reason that another may not have, before anything was said. A model that failed
so, and not for what the request is, is not asked first again for a while, by whatever name it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.models.resolve import VendorNames
from shared.errors import ERROR_CODES, ConfigError, GatewayError

COOL_DOWN_S = 30.0
ON = ("model_unavailable", "model_not_found", "no_memory", "overloaded", "worker_lost", "deadline_exceeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """`models` in the order in which they are asked, `on` the codes of errors that lead to the next."""

    models: tuple[str, ...]
    on: frozenset[str] = frozenset(ON)
    cool_down_s: float = COOL_DOWN_S


def parse_fallbacks(data: Any) -> dict[str, Fallback]:
    """Raises `ConfigError`."""
    table = data.get("fallbacks", {}) if isinstance(data, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError('claude_routing.json: expected "fallbacks": {"name": ["model", …]}')
    return {name: _parse(f"claude_routing.json: fallbacks of {name!r}", entry) for name, entry in table.items()}


def _parse(where: str, entry: Any) -> Fallback:
    fields = {"models": entry} if isinstance(entry, list) else entry
    if not isinstance(fields, dict) or set(fields) - {"models", "on", "cool_down_s"}:
        raise ConfigError(f"{where}: expected a list of models, or `models`, `on` and `cool_down_s`")
    models, on = fields.get("models"), fields.get("on", list(ON))
    if not isinstance(models, list) or not models or not all(isinstance(each, str) and each for each in models):
        raise ConfigError(f"{where}: `models` is a list of names")
    unknown = [each for each in on if each not in ERROR_CODES] if isinstance(on, list) else [on]
    if unknown:
        raise ConfigError(f"{where}: `on` {unknown[0]!r} is no error; there are {', '.join(sorted(ERROR_CODES))}")
    cool_down_s = fields.get("cool_down_s", COOL_DOWN_S)
    if isinstance(cool_down_s, bool) or not isinstance(cool_down_s, int | float) or cool_down_s < 0:
        raise ConfigError(f"{where}: `cool_down_s` is a number of seconds")
    return Fallback(models=tuple(models), on=frozenset(on), cool_down_s=float(cool_down_s))


class Fallbacks:
    """Of one gateway. `table` gives what is set now, `clock` monotonic seconds."""

    def __init__(
        self, table: Callable[[], Mapping[str, Fallback]], vendors: Sequence[VendorNames], clock: Callable[[], float]
    ) -> None:
        self._table = table
        self._vendors = vendors
        self._clock = clock
        self._cooling: dict[str, float] = {}  # model, or a name that stands for none -> until when

    def instead(self, name: str, model: str = "") -> Fallback:
        """Of what a client asks for, and the model that this stands for."""
        table = self._table()
        written = {key.lower(): key for key in table}  # tiers are known by their names in lower case
        tiers = (written.get(vendor.tier_of(name, written), "") for vendor in self._vendors)
        keys = (key for key in (name, *tiers, model) if key in table)
        return table.get(next(keys, ""), Fallback(models=()))

    def of(self, name: str, fallback: Fallback, behind: Mapping[str, str]) -> Chain:
        """`behind` has the models that the names stand for now."""
        return Chain(self, name, fallback, behind)

    def is_cooling(self, model: str) -> bool:
        return self._cooling.get(model, 0.0) > self._clock()

    def failed(self, model: str, cool_down_s: float) -> None:
        self._cooling[model] = self._clock() + cool_down_s

    def worked(self, model: str) -> None:
        self._cooling.pop(model, None)


class Chain:
    """One request's way from one model to the next."""

    def __init__(self, fallbacks: Fallbacks, name: str, fallback: Fallback, behind: Mapping[str, str]) -> None:
        self._fallbacks = fallbacks
        self._fallback = fallback
        self._behind = behind
        self._all = tuple(dict.fromkeys((name, *fallback.models)))
        warm = tuple(each for each in self._all if not fallbacks.is_cooling(self._model(each)))
        self.names = warm or self._all
        self._left = len(self.names)

    def __iter__(self) -> Iterator[str]:
        for name in self.names:
            self._left -= 1
            yield name

    def without(self, names: Collection[str]) -> Chain:
        """The same, but who is asked first is asked all the same."""
        if names:
            self.names = tuple(each for each in self.names if each not in names) or self._all[:1]
            self._left = len(self.names)
        return self

    def goes_on(self, name: str, error: GatewayError) -> bool:
        """Whether another is asked after this error, which is kept in mind unless it is about the request."""
        if not self._fallback.models or error.code not in self._fallback.on:
            return False
        if error.code in ON:
            self._fallbacks.failed(self._model(name), self._fallback.cool_down_s)
        return self._left > 0

    def worked(self, name: str) -> None:
        self._fallbacks.worked(self._model(name))

    def _model(self, name: str) -> str:
        return self._behind.get(name) or name
