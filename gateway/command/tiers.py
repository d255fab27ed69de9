"""`mlx-gateway tier`: which model answers for a tier, changed in `claude_routing.json` while everything serves.

Gateways read the file again when it changes. A stream that is open stays with the model that it has; the next request
of its client goes to the new one.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from gateway.dialects.registry import TIERS, VENDOR_NAMES
from gateway.models.resolve import resolve
from gateway.models.settings_files import Policies
from shared.config import Settings, SettingsFile
from shared.errors import ConfigError
from shared.registry import Fleet
from shared.routing import parse_tiers

FILE = "claude_routing.json"


def add_tier_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tier", nargs="?", choices=TIERS, help="the tier; without one all are shown")
    parser.add_argument("model", nargs="?", help="a model that is served, by its name, its source, or an alias")
    parser.add_argument("--clear", action="store_true", help="leave the tier to the default model again")


def change_tier(settings: Settings, options: argparse.Namespace, fleet: Fleet) -> int:
    """Raises `ConfigError` where there is no folder of settings, `ModelNotFoundError` for a name that leads nowhere."""
    if not options.tier:
        _show(settings)
        return 0
    if bool(options.model) == options.clear:
        raise ConfigError("tier: name a model, or give --clear")
    model = "" if options.clear else _resolved(settings, fleet, options.model)
    set_tier(settings, options.tier, model)
    sys.stdout.write(f"{options.tier} is {model or 'the default model'} from the next request on\n")
    return 0


def _show(settings: Settings) -> None:
    tiers = parse_tiers(SettingsFile(settings, FILE).load())
    for tier in TIERS:
        sys.stdout.write(f"{tier}: {tiers[tier].model if tier in tiers else '(the default model)'}\n")


def _resolved(settings: Settings, fleet: Fleet, name: str) -> str:
    return resolve(name, fleet, Policies(settings).routes(), vendors=VENDOR_NAMES).model


def set_tier(settings: Settings, tier: str, model: str) -> None:
    """Whole at every moment: who reads the file finds this or what was there before. What else stands there stays; of
    the tier's entry too, but what belonged to the model before. An empty model takes the entry away."""
    if settings.config_dir is None:
        raise ConfigError("there is no folder of settings files: start `mlx-gateway up` with --config DIR")
    data: Any = SettingsFile(settings, FILE).load()
    parse_tiers(data)
    tiers = {name: value for name, value in data.get("tiers", {}).items() if name.lower() != tier}
    if model:
        tiers[tier] = model
    _write(settings.config_dir / FILE, {**data, "tiers": tiers})


def _write(path: Path, data: Any) -> None:
    written = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        written.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
        if path.exists():
            written.chmod(path.stat().st_mode & 0o777)
        os.replace(written, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        written.unlink(missing_ok=True)
