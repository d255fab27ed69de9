"""`mlx-gateway doctor`: what this machine has and lacks, with the line that mends it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.command.runfile import read_running
from gateway.command.stack import check_redis, listen
from gateway.dialects.registry import TIERS
from gateway.models.settings_files import find_faults
from shared.config import Settings, model_folders
from shared.errors import ConfigError
from shared.redis_server import find_redis, redis_version
from shared.slips import find_slips

_IMPORT_S = 60.0
_SHOWN_MODELS = 20
_MLX_PROBE = """
import mlx.core, mlx_lm
print("mlx", mlx.core.__version__, "mlx-lm", mlx_lm.__version__, mlx.core.default_device())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`is_needed` tells a fault from a remark."""

    subject: str
    is_fine: bool
    text: str
    is_needed: bool = True


def examine(settings: Settings) -> Iterator[Finding]:
    """One finding after another; some take seconds."""
    version = platform.python_version()
    yield Finding(subject="python", is_fine=sys.version_info >= (3, 11), text=f"{version} ({sys.executable})")
    yield _redis(settings)
    yield _port(settings)
    yield _mlx()
    yield Finding(subject="memory", is_fine=True, text=f"{memory_bytes() / 2**30:.1f} GiB")
    yield _state(settings)
    yield _settings(settings)
    yield _models()


def _redis(settings: Settings) -> Finding:
    try:
        if settings.redis_url:
            check_redis(settings)
            return Finding(subject="redis", is_fine=True, text="the server of REDIS_URL answers")
        binary = find_redis()
    except ConfigError as error:
        return Finding(subject="redis", is_fine=False, text=str(error))
    return Finding(subject="redis", is_fine=True, text=f"{binary} {'.'.join(map(str, redis_version(binary)))}")


def _port(settings: Settings) -> Finding:
    running = read_running(settings.state_dir)
    if running is not None and running.url.endswith(f":{settings.port}"):
        return Finding(subject="port", is_fine=True, text=f"{running.url} is this gateway (of `up`, pid {running.pid})")
    try:
        listen(settings).close()
    except ConfigError as error:
        return Finding(subject="port", is_fine=False, text=str(error))
    return Finding(subject="port", is_fine=True, text=f"{settings.host}:{settings.port} is free")


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
    text = f"{reason}; models run with it: pip install 'mlx-gateway[mlx]' (a gateway alone does not need it)"
    return Finding(subject="mlx", is_fine=False, is_needed=False, text=text)


def _state(settings: Settings) -> Finding:
    folder = settings.state_dir
    while not folder.exists():
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK):
        return Finding(subject="state", is_fine=True, text=f"logs and caches are kept in {settings.state_dir}")
    text = f"nothing can be kept in {settings.state_dir}: {folder} is not a folder that can be written; see --state"
    return Finding(subject="state", is_fine=False, text=text)


def _settings(settings: Settings) -> Finding:
    faults, slips = list(find_faults(settings)), list(find_slips(settings, TIERS))
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


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
