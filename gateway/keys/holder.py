"""Who asks: the owner of the gateway, or whoever holds one of its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from shared.errors import PermissionDeniedError
from shared.request import PRIORITIES, GenerateRequest, Priority

Role = Literal["admin", "user", "viewer"]
ROLES: Final[tuple[Role, ...]] = ("admin", "user", "viewer")

# What each may besides asking whether the gateway is there: the works of routes. An administrator may everything.
_USING: Final = frozenset(
    {
        "generate",
        "respond",
        "conversations",
        "conversation",
        "count",
        "compact",
        "embeddings",
        "rerank",
        "transcribe",
        "translate",
        "speak",
        "models",
        "model",
    }
    | {"kept", "stored_completions", "stored_completion"}
    | {"files", "file", "batches", "batch", "message_batches", "message_batch"}
)
_LOOKING: Final = frozenset({"models", "model", "status", "metrics", "host_metrics", "targets", "api"})
_MAY: Final[Mapping[Role, frozenset[str]]] = {"user": _USING, "viewer": _LOOKING}
MOST_COUNTED: Final = 1 << 53  # up to which the numbers of Redis's scripts are exact
_SHOWN: Final = 200  # characters of what a client sent
_FOR_ALL: Final = frozenset({"health", "ready", "greeting", "home", "console"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The most of one key, up to `MOST_COUNTED`; 0 means no limit. Tokens are those that were computed: of the prompt
    without what the cache held, and of the answer."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0

    def __bool__(self) -> bool:
        return bool(self.requests_per_minute or self.tokens_per_minute or self.tokens_per_day)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """`tenant` is whose caches, kept answers, files and batches are shared: empty for the owner's. `models` are
    patterns of the ids that may be used, all where there are none. `ceiling` is the best class that the holder's
    requests may have."""

    name: str = ""
    role: Role = "admin"
    tenant: str = ""
    models: tuple[str, ...] = ()
    ceiling: Priority = "interactive"
    quota: Quota = field(default_factory=Quota)

    def check_work(self, work: str) -> None:
        """Raises `PermissionDeniedError` for what the role may not."""
        if self.role != "admin" and work not in _FOR_ALL | _MAY[self.role]:
            raise PermissionDeniedError(f"the key {self.name!r} has the role {self.role}, which may not do this")

    def may_use(self, model: str) -> bool:
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)

    @property
    def limit(self) -> Callable[[str], bool] | None:
        """Says of a model whether it may be used; None where all may."""
        return self.may_use if self.models else None

    def check_model(self, model: str, *, asked: str = "") -> None:
        """`asked` is the client's name for it, all that it is told. Raises `PermissionDeniedError`."""
        if not self.may_use(model):
            raise PermissionDeniedError(f"the key {self.name!r} may not use {(asked or model)[:_SHOWN]!r}")

    def own(self, request: GenerateRequest) -> GenerateRequest:
        """The request as this holder's, in a class that it may have."""
        if not self.name:
            return request
        lower = max(PRIORITIES.index(request.priority), PRIORITIES.index(self.ceiling))
        return replace(request, tenant=self.tenant, priority=PRIORITIES[lower])


OWNER: Final = Holder()


def holder_of(scope: Mapping[str, Any]) -> Holder:
    """Of a request whose key was checked."""
    found = scope.get("state", {}).get("holder", OWNER)
    assert isinstance(found, Holder)
    return found
