"""`mlx-gateway pull`, `rm` and `models --local`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from gateway.command.ends import failed
from gateway.command.pulling import hub, local
from gateway.command.pulling.cache_need import UnknownCacheError, cache_size
from gateway.command.pulling.plan import Choice, HubFile, Machine, check_disk, choose, told
from gateway.command.runfile import read_running
from gateway.command.running_fleet import read_fleet
from shared.config import Settings, model_folders
from shared.errors import ConfigError


def add_pulling_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    pull = command("pull", "Fetch a model from the Hugging Face hub, or go on fetching it.")
    pull.add_argument("model", metavar="MAKER/MODEL", nargs="?", default="", help="its id there")
    pull.add_argument("--quantization", default="", metavar="Q", help="of GGUF files (the largest that fits)")
    pull.add_argument("--yes", action="store_true", help="do not ask")
    pull.add_argument(
        "--json", action="store_true", dest="is_json", help="say what would be fetched, and fetch nothing"
    )
    pull.add_argument("--search", metavar="WORDS", default="", help="list models with these in their names")
    removing = command("rm", "Delete a model from this machine.")
    removing.add_argument("model", metavar="MAKER/MODEL", help="as `models --local` names it")
    removing.add_argument("--yes", action="store_true", help="do not ask")


def pull(_: Settings, options: argparse.Namespace) -> int:
    if options.search:
        return _search(options.search, is_json=options.is_json)
    if not options.model:
        raise ConfigError("say which model to fetch, MAKER/MODEL, or what to look for, --search WORDS")
    files = hub.files_of(options.model)
    machine = _machine()
    choice = choose(options.model, files, machine, options.quantization)
    chosen, lines = list(choice.files), told(options.model, choice, machine)
    if not options.is_json:
        print("\n".join(lines), flush=True)
    check_disk(choice, machine, hub.fetched_bytes(options.model, chosen))
    if options.is_json:
        cache = _cache(options.model, choice, files)
        print(json.dumps({"model": options.model, "size_bytes": choice.size_bytes, "lines": lines, **cache}))
        return 0
    _agree("Fetch it?", is_agreed=options.yes)
    folder = hub.fetch(options.model, chosen, lambda line: print(line, flush=True))
    source = _source(options.model, choice.kind, folder, chosen[0].name)
    print(f"{options.model} lies in {folder}; serve it: mlx-gateway up --model {source}")
    return 0


def _cache(model: str, choice: Choice, files: list[HubFile]) -> dict[str, Any]:
    """What a sequence's cache will take, or why that is not known."""
    if choice.kind == "gguf":
        return {"cache_unknown": "what a GGUF model keeps is known once it is here"}
    try:
        return {"cache": asdict(cache_size(hub.config_of(model, files)))}
    except UnknownCacheError as error:
        return {"cache_unknown": str(error)}


def _search(words: str, *, is_json: bool) -> int:
    found = hub.search(words)
    if is_json:
        print(json.dumps({"models": [asdict(each) for each in found]}))
        return 0
    width = max((len(each.model) for each in found), default=0)
    lines = [f"{each.model:<{width}}  {each.kind:<11}  {each.changed}  {each.downloads:,} downloads" for each in found]
    print("\n".join(lines) if found else f"the hub has no model with {words!r} in its name")
    return 0


def _source(model: str, kind: str, folder: Path, first: str) -> str:
    return str(folder / Path(first).name) if kind == "gguf" else model


def _machine() -> Machine:
    (cache, *_), _ = model_folders()
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    return Machine(memory_bytes=psutil.virtual_memory().total, disk_bytes=shutil.disk_usage(there).free)


def _agree(question: str, *, is_agreed: bool) -> None:
    """Raises `ConfigError` where nobody does."""
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here: say --yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise failed("nothing was done")


def remove(settings: Settings, options: argparse.Namespace) -> int:
    model = local.named(options.model)
    if model.id in _served(settings):
        raise failed(f"{model.id} is served by what runs here: stop it first")
    _agree(f"Delete {model.path} ({model.size_bytes / 1e9:.2f} GB)?", is_agreed=options.yes)
    local.remove(model)
    print(f"{model.id} is deleted: {model.size_bytes / 1e9:.2f} GB")
    return 0


def _served(settings: Settings) -> set[str]:
    if read_running(settings.state_dir) is None:
        return set()
    return {record.source for host in read_fleet(settings).hosts for record in host.models}


def show_local() -> int:
    models = local.find_local()
    print("\n".join(local.lines(models)) if models else "no models lie on this machine")
    return 0
