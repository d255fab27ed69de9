"""`mlx-gateway remotes`: the servers of `remotes.json`, and a look for servers of models on this machine.

Who is there is told by what it answers, never by its port: several programs share one. Only this machine is looked at,
and what a person names. Gateways of ours are told by their id, so that the one of this stack is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Collection, Sequence
from typing import Final

from gateway.command.runfile import reachable, read_running
from shared.config import Settings, SettingsFile
from shared.errors import ConfigError
from shared.fingerprints import Found, recognise
from shared.http_client import Address
from shared.remotes import FILE, Remote, parse_remotes

# Where servers of models listen when nobody says otherwise.
PORTS: Final = (1234, 8000, 8001, 8080, 8081, 9931, 10240, 11434, 4000, 5000)


def add_remotes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "scan"), default="list")
    parser.add_argument("--url", action="append", default=[], metavar="URL", help="look there too; repeatable")


def show_remotes(settings: Settings, options: argparse.Namespace) -> int:
    """Raises `ConfigError`."""
    known = parse_remotes(SettingsFile(settings, FILE).load())
    if options.action == "list":
        for remote in known:
            sys.stdout.write(f"{remote.id}: {remote.source} ({remote.profile or 'found out when it is loaded'})\n")
        if not known:
            sys.stdout.write(f"no {FILE} names a server: `mlx-gateway remotes scan` looks for some\n")
        return 0
    urls = [f"http://127.0.0.1:{port}" for port in PORTS] + [_address(url) for url in options.url]
    running = read_running(settings.state_dir)
    found = asyncio.run(scan(dict.fromkeys(urls), ourselves=reachable(running.url) if running else ""))
    for line in report(found, known):
        sys.stdout.write(line + "\n")
    return 0


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {url}: expected http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")


async def scan(urls: Collection[str], *, ourselves: str = "") -> list[Found]:
    """Who answers at the addresses, but for the gateway at the address `ourselves`, whatever it is reached by."""
    ours = await recognise(Address(url=ourselves)) if ourselves else None
    found = await asyncio.gather(*(recognise(Address(url=url)) for url in urls))
    return [each for each in found if each is not None and (ours is None or each.gateway != ours.gateway)]


def report(found: Sequence[Found], known: Sequence[Remote]) -> list[str]:
    """For a person: who is there, and the entries of `remotes.json` that would serve them."""
    if not found:
        return ["no server of models answers on this machine"]
    lines, entries = [], []
    listed = {remote.url.rstrip("/").removesuffix("/v1") for remote in known}
    for each in found:
        if each.needs_key:
            lines.append(f"{each.url}: somebody is there who wants a key")
            continue
        models = ", ".join(each.models) or "no model"
        lines.append(f"{each.url}: {each.profile}: {models}{' (in remotes.json)' if each.url in listed else ''}")
        if each.url not in listed:
            entries += [_entry(each, model) for model in each.models or ("",)]
    if entries:
        lines += ["", "in remotes.json:", json.dumps({"remotes": entries}, indent=2, ensure_ascii=False)]
    return lines


def _entry(found: Found, model: str) -> dict[str, str]:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rpartition("/")[2]).strip("-")
    entry = {"id": "-".join(filter(None, (name, found.profile))), "url": found.url, "model": model}
    return {key: value for key, value in {**entry, "profile": found.profile}.items() if value}
