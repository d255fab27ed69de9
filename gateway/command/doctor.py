"""`mlx-gateway doctor`: what this machine has and lacks, with the line that mends it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from gateway.command.checks.broker import check_broker
from gateway.command.checks.extras import check_extras
from gateway.command.checks.finding import Finding, fault, fine
from gateway.command.checks.fleet import check_fleet
from gateway.command.checks.machine import check_disk, check_memory
from gateway.command.checks.port import check_port
from gateway.command.checks.programs import check_programs
from gateway.command.checks.sentinels import check_sentinels
from gateway.command.runfile import read_running
from gateway.command.running_fleet import read_fleet
from gateway.command.stack import check_redis, listen
from gateway.dialects.registry import TIERS
from gateway.models.settings_files import find_doubled, find_faults
from shared.config import Settings, SettingsFile, model_folders
from shared.errors import ConfigError, GatewayError
from shared.extras import install_line
from shared.membership import Membership, read_membership
from shared.redis_server import find_redis, redis_version
from shared.registry import ENGINE_NAMES, Fleet, ModelSpec, parse_models
from shared.routing import parse_tiers
from shared.slips import find_slips

_IMPORT_S = 60.0
_PROBE_BYTES = 1 << 20
_SHOWN_MODELS = 20
_MLX_PROBE = """
import mlx.core, mlx_lm
print("mlx", mlx.core.__version__, "mlx-lm", mlx_lm.__version__, mlx.core.default_device())
"""


def examine(settings: Settings) -> Iterator[Finding]:
    """One finding after another; some take seconds."""
    version = platform.python_version()
    yield Finding(subject="python", is_fine=sys.version_info >= (3, 11), text=f"{version} ({sys.executable})")
    membership = _membership(settings)
    yield from _redis(settings, membership)
    yield from check_fleet(settings)
    yield check_port(settings, membership, listen)
    yield _mlx()
    yield check_memory()
    yield _state(settings)
    yield check_disk(settings.state_dir)
    yield _settings(settings)
    yield _models()
    yield from check_extras(_served(settings))
    yield from check_programs()


def _redis(settings: Settings, membership: Membership | None) -> Iterator[Finding]:
    if membership is not None and not settings.redis_url:
        yield fine("redis", f"the fleet's, through the door at {membership.address}: this Mac needs none")
        return
    try:
        if settings.redis_url:
            check_redis(settings)
            yield fine("redis", "the server of REDIS_URL answers")
            yield from check_sentinels(settings)
            yield from check_broker(settings)
            return
        binary = find_redis()
    except ConfigError as error:
        yield fault("redis", str(error))
        return
    yield fine("redis", f"{binary} {'.'.join(map(str, redis_version(binary)))}")


def _membership(settings: Settings) -> Membership | None:
    """None where this Mac has not joined, and where the files that say so cannot be read, which `check_fleet` tells."""
    with contextlib.suppress(ConfigError):
        return read_membership(settings.state_dir)
    return None


def _mlx() -> Finding:
    """In a process of its own: a gateway never imports MLX."""
    command = [sys.executable, "-P", "-c", _MLX_PROBE]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_S, check=False)
    except subprocess.TimeoutExpired:
        return Finding(subject="mlx", is_fine=False, text=f"importing it took more than {_IMPORT_S:.0f} s")
    if said.returncode == 0:
        return Finding(subject="mlx", is_fine=True, text=said.stdout.strip())
    reason = (said.stderr.strip().splitlines() or ["no reason given"])[-1]
    text = f"{reason}; models run with it: {install_line('mlx')} (a gateway alone does not need it)"
    return Finding(subject="mlx", is_fine=False, is_needed=False, text=text)


def _state(settings: Settings) -> Finding:
    folder = settings.state_dir
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # what a full disk lets one do is found out by doing it
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        text = (
            f"nothing can be kept in {settings.state_dir}: {folder} cannot be written ({error.strerror}); see --state"
        )
        return Finding(subject="state", is_fine=False, text=text)
    return Finding(subject="state", is_fine=True, text=f"logs and caches are kept in {settings.state_dir}")


def _settings(settings: Settings) -> Finding:
    faults, slips = [*find_faults(settings), *find_doubled(settings)], list(find_slips(settings, TIERS))
    text = "".join(f"\n    {line}" for line in (*faults, *slips)) or "everything that is set is read"
    return Finding(subject="settings", is_fine=not (faults or slips), is_needed=bool(faults), text=text)


def _models() -> Finding:
    found = find_models(*model_folders())
    if not found:
        text = "none in the Hugging Face cache or LM Studio's folders; name a folder with --model"
        return Finding(subject="models", is_fine=False, is_needed=False, text=text)
    shown = [
        *found[:_SHOWN_MODELS],
        *([f"and {len(found) - _SHOWN_MODELS} more"] if len(found) > _SHOWN_MODELS else []),
    ]
    return Finding(subject="models", is_fine=True, text="".join(f"\n    {name}" for name in shown))


def _served(settings: Settings) -> Iterator[ModelSpec]:
    """What hosts of this machine serve: by settings files that can be used, and by an `up` that runs."""
    with contextlib.suppress(GatewayError):
        yield from parse_models(SettingsFile(settings, "models.json").load() or [])
    with contextlib.suppress(GatewayError):
        for tier in parse_tiers(SettingsFile(settings, "claude_routing.json").load()).values():
            if engine := next((known for known in ENGINE_NAMES if known == tier.backend), None):
                yield ModelSpec(id=tier.model, source=tier.model, engine=engine)
    if read_running(settings.state_dir) is not None:
        with contextlib.suppress(GatewayError):
            yield from _running(read_fleet(settings))


def _running(fleet: Fleet) -> Iterator[ModelSpec]:
    """Those of hosts on this machine; a model that no worker has loaded is taken for one of mlx's."""
    engines = {lease.model: lease.engine for lease in fleet.workers}
    for host in fleet.hosts:
        for each in host.models if host.machine == f"{uuid.getnode():x}" else ():
            engine = next((known for known in ENGINE_NAMES if known == engines.get(each.id)), None)
            yield ModelSpec(id=each.id, source=each.source, engine=engine or "mlx")


def find_models(hubs: tuple[Path, ...], studios: tuple[Path, ...]) -> list[str]:
    """Ids of the models on this machine that `--model` takes: whole snapshots of the hub, LM Studio's folders."""
    found = set()
    for hub in hubs:
        for config in hub.glob("models--*/snapshots/*/config.json"):
            if any(config.parent.glob("*.safetensors")):
                found.add(config.parents[2].name.removeprefix("models--").replace("--", "/"))
    for studio in studios:
        for config in studio.glob("*/*/config.json"):
            if any(config.parent.glob("*.safetensors")):
                found.add(f"{config.parent.parent.name}/{config.parent.name}")
    return sorted(found)
