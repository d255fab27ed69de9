"""What `launch --mode` means: a backend's first model, or a model by any of its names. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import ConfigError
from shared.registry import ENGINE_NAMES, Fleet, ModelSpec
from shared.remotes import PROFILES, Remote


def model_of_mode(mode: str, fleet: Fleet, listed: Sequence[ModelSpec], remotes: Sequence[Remote]) -> str:
    """A name that the gateway knows. A model that is loaded comes before one that is only listed. Raises `ConfigError`
    for a backend that serves nothing."""
    if mode in ENGINE_NAMES:
        loaded = sorted(lease.model for lease in fleet.workers if lease.engine == mode)
        found = [*loaded, *(spec.id for spec in listed if spec.engine == mode)]
        found += [remote.id for remote in remotes if mode == "remote"]
    elif mode in PROFILES:
        found = [remote.id for remote in remotes if remote.profile == mode]
    else:
        return mode
    if not found:
        raise ConfigError(
            f"--mode {mode}: nothing is served by it; there are: {', '.join(fleet.model_ids()) or 'none'}"
        )
    return found[0]
